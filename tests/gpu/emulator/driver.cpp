// libcuda.so.1 without a GPU: what CubeCL asks of CUDA's driver, with kernels interpreted from their PTX.
//
// Work is done when it is asked for, in order, so streams and events have nothing to wait for. An event's time is the
// number of instructions that were executed before it: what is tuned by it is chosen alike on every machine.
//
// What would have to wait on a GPU is kept count of all the same: a product of matrices (cublas.cpp) must be told to wait for
// everything before it, and everything after it for the product, or it fails.
//
//   EMULATED_GPUS, EMULATED_MEMORY   how many there are, and their bytes (machine.hpp)
//   EMULATED_CHOICE                  a number: events tell times drawn from it and the kernels that ran, so that tuning chooses
//                                    among all kernels that can do a thing
//   EMULATED_LOG                     a file that gets a line for every kernel loaded and, at the end, one for each that ran
//   EMULATED_IDLE                    set: kernels do nothing, and what is left is the time that the host takes
#include <unistd.h>

#include <algorithm>
#include <cstdarg>
#include <map>
#include <mutex>
#include <set>

#include "execute.hpp"
#include "machine.hpp"

namespace {

enum { SUCCESS = 0, INVALID_VALUE = 1, OUT_OF_MEMORY = 2, NO_DEVICE = 100, INVALID_DEVICE = 101, INVALID_PTX = 218, NOT_FOUND = 500 };

std::recursive_mutex lock;
using Locked = std::lock_guard<std::recursive_mutex>;
std::map<unsigned long, size_t> memory; // by where it begins
size_t in_use = 0;
int broken = SUCCESS; // what a kernel did: every call fails with it from then on
double ticks = 0;
int current = 0;

struct Module {
    std::map<std::string, ptx::Kernel> kernels;
};
// What work has been done before: how much of each stream.
struct Stream;
using Before = std::map<Stream *, long>;
struct Stream {
    long queued = 0;
    long products = 0; // up to the last of them
    Before waited;
};
struct Event {
    double at = 0;
    Before before;
};
std::set<Stream *> streams;
Before of_context; // what all streams have to wait for, those to come as well

void merge(Before &into, const Before &from) {
    for (auto &[stream, queued] : from) into[stream] = std::max(into[stream], queued);
}
Before all_of(Stream *stream) {
    Before before = stream->waited;
    before[stream] = stream->queued;
    return before;
}
// Whether a stream has been told to wait for the others: a product for all that they have, others for their products.
bool in_order(Stream *stream, bool product) {
    for (Stream *other : streams)
        if (other != stream && stream->waited[other] < (product ? other->queued : other->products)) return false;
    return true;
}
int out_of_order(const char *name) {
    fprintf(stderr, "emulated GPU: %s does not wait for what it reads or for who reads what it writes\n", name);
    return broken = ptx::LAUNCH_FAILED;
}
Stream *made() { return *streams.insert(new Stream{0, 0, of_context}).first; }
// Other work begins in a stream.
int begun(void *queue, const char *name) {
    Stream *stream = (Stream *)queue;
    if (broken || !stream) return broken;
    if (!in_order(stream, false)) return out_of_order(name);
    stream->queued++;
    return SUCCESS;
}
struct Ran {
    long times = 0;
    long by_chance = 0; // launches whose sums depend on the order of threads
    double steps = 0;
    double moved = 0; // bytes
};
std::map<std::string, Ran> ran;
long loaded = 0;

void log(const char *format, ...) {
    const char *path = getenv("EMULATED_LOG");
    if (!path) return;
    FILE *file = fopen(path, "a");
    if (!file) return;
    va_list args;
    va_start(args, format);
    vfprintf(file, format, args);
    va_end(args);
    fclose(file);
}

struct AtEnd {
    ~AtEnd() {
        double steps = 0;
        for (auto &[name, r] : ran) {
            log("%d ran %ld %.0f %.0f %s\n", getpid(), r.times, r.steps, r.moved, name.c_str());
            if (r.by_chance) log("%d by-chance %ld %s\n", getpid(), r.by_chance, name.c_str());
            steps += r.steps;
        }
        if (loaded) log("%d end: %ld kernels loaded, %.0f instructions of warps\n", getpid(), loaded, steps);
    }
} at_end;

bool idle() {
    static const bool is = getenv("EMULATED_IDLE") != nullptr;
    return is;
}

int take(unsigned long *address, size_t bytes) {
    Locked locked(lock);
    if (broken) return broken;
    if (bytes == 0) return INVALID_VALUE;
    size_t size = (bytes + 511) / 512 * 512;
    if (in_use + size > machine::memory()) return OUT_OF_MEMORY;
    void *found = aligned_alloc(512, size);
    if (!found) return OUT_OF_MEMORY;
    // Nobody may count on zeros; large buffers are those that a GPU's speed is measured with.
    if (!idle() && size <= 64 << 20) memset(found, 0xcd, size);
    *address = (unsigned long)found;
    memory[*address] = bytes;
    in_use += size;
    return SUCCESS;
}
int give(unsigned long address) {
    Locked locked(lock);
    auto found = memory.find(address);
    if (found == memory.end()) return INVALID_VALUE;
    in_use -= (found->second + 511) / 512 * 512;
    memory.erase(found);
    free((void *)address);
    return SUCCESS;
}

// Kernels that only measure what a GPU can do: nobody reads what they compute.
bool only_measures(const std::string &name) {
    return name.find("throughput") != std::string::npos || name.compare(0, 12, "prime_buffer") == 0;
}

unsigned long long mixed(unsigned long long x) {
    x ^= x >> 33, x *= 0xff51afd7ed558ccdull, x ^= x >> 33, x *= 0xc4ceb9fe1a85ec53ull;
    return x ^ x >> 33;
}

double price(const std::string &name, double steps) {
    static const char *choice = getenv("EMULATED_CHOICE");
    if (!choice) return steps;
    unsigned long long h = strtoull(choice, nullptr, 10);
    for (char c : name) h = mixed(h ^ (unsigned char)c);
    return 1e6 + h % 1000000007 / 1e2;
}

} // namespace

namespace ptx {
bool allocated(u64 address, u64 bytes) {
    static unsigned long from = 1, to = 0; // the last that was asked for
    if (address >= from && address + bytes <= to) return true;
    auto after = memory.upper_bound(address);
    if (after == memory.begin()) return false;
    --after;
    if (address + bytes > after->first + after->second) return false;
    from = after->first, to = after->first + after->second;
    return true;
}
} // namespace ptx

extern "C" {

// For the other libraries.
unsigned long long emulated_memory_in_use() { return in_use; }
bool emulated_idle() { return idle(); }
bool emulated_allocated(unsigned long address, unsigned long bytes) {
    Locked locked(lock);
    return ptx::allocated(address, bytes);
}
// A product of matrices begins in a stream.
int emulated_product(void *queue, const char *name, double steps) {
    Locked locked(lock);
    if (broken) return broken;
    Stream *stream = (Stream *)queue;
    if (!in_order(stream, true)) return out_of_order(name);
    stream->products = ++stream->queued;
    Ran &entry = ran[name];
    entry.times++, entry.steps += steps;
    ticks += price(name, steps);
    return SUCCESS;
}

int cuInit(unsigned) { return machine::visible().empty() ? NO_DEVICE : SUCCESS; }
int cuDriverGetVersion(int *version) { return *version = 13000, SUCCESS; }
int cuDeviceGetCount(int *count) { return *count = (int)machine::visible().size(), SUCCESS; }
int cuDeviceGet(int *device, int number) {
    if (number < 0 || number >= (int)machine::visible().size()) return INVALID_DEVICE;
    return *device = number, SUCCESS;
}
int cuDeviceGetName(char *name, int size, int) { return snprintf(name, size, "Emulated H100"), SUCCESS; }
int cuDeviceTotalMem_v2(size_t *bytes, int) { return *bytes = machine::memory(), SUCCESS; }
int cuDeviceGetPCIBusId(char *id, int size, int device) { return snprintf(id, size, "0000:%02x:00.0", machine::visible()[device] + 4), SUCCESS; }
int cuDeviceGetAttribute(int *value, int attribute, int) {
    // Of an H100 (CUDA programming guide, compute capability 9.0), by the numbers of the driver's interface.
    static const std::map<int, int> known = {
        {1, 1024}, {2, 1024}, {3, 1024}, {4, 64},        // threads of a block, and along each axis
        {5, 2147483647}, {6, 65535}, {7, 65535},         // blocks along each axis
        {8, 49152}, {10, 32}, {16, 132},                 // shared memory of a block, lanes of a warp, multiprocessors
        {75, 9}, {76, 0}, {81, 233472}, {97, 232448},    // compute capability, shared memory of a multiprocessor, and at most
        {115, 1},                                        // memory pools
    };
    auto found = known.find(attribute);
    if (found == known.end()) return INVALID_VALUE;
    return *value = found->second, SUCCESS;
}
int cuDevicePrimaryCtxRetain(void **context, int) { return *context = &current, SUCCESS; }
int cuDevicePrimaryCtxRelease_v2(int) { return SUCCESS; }
int cuCtxSetCurrent(void *) { return SUCCESS; }
int cuCtxGetCurrent(void **context) { return *context = &current, SUCCESS; }
int cuCtxSynchronize() { return broken; }
int cuCtxGetStreamPriorityRange(int *least, int *greatest) { return *least = 0, *greatest = -5, SUCCESS; }

int cuStreamCreate(void **stream, unsigned) {
    Locked locked(lock);
    return *stream = made(), SUCCESS;
}
int cuStreamCreateWithPriority(void **stream, unsigned, int) { return cuStreamCreate(stream, 0); }
int cuStreamDestroy_v2(void *stream) {
    Locked locked(lock);
    streams.erase((Stream *)stream);
    return delete (Stream *)stream, SUCCESS;
}
int cuStreamSynchronize(void *) { return broken; }
int cuStreamWaitEvent(void *stream, void *event, unsigned) {
    Locked locked(lock);
    return merge(((Stream *)stream)->waited, ((Event *)event)->before), broken;
}
int cuEventCreate(void **event, unsigned) { return *event = new Event, SUCCESS; }
int cuEventDestroy_v2(void *event) { return delete (Event *)event, SUCCESS; }
int cuEventRecord(void *event, void *stream) {
    Locked locked(lock);
    *(Event *)event = {ticks, all_of((Stream *)stream)};
    return broken;
}
int cuCtxRecordEvent(void *, void *event) {
    Locked locked(lock);
    *(Event *)event = {ticks, {}};
    for (Stream *stream : streams) merge(((Event *)event)->before, all_of(stream));
    return broken;
}
int cuCtxWaitEvent(void *, void *event) {
    Locked locked(lock);
    merge(of_context, ((Event *)event)->before);
    for (Stream *stream : streams) merge(stream->waited, ((Event *)event)->before);
    return broken;
}
int cuEventSynchronize(void *) { return broken; }
int cuEventQuery(void *) { return broken; }
int cuEventElapsedTime(float *ms, void *from, void *to) { return *ms = (float)((((Event *)to)->at - ((Event *)from)->at) / 1e3), broken; }
int cuEventElapsedTime_v2(float *ms, void *from, void *to) { return cuEventElapsedTime(ms, from, to); }

int cuMemGetInfo_v2(size_t *unused, size_t *total) { return *total = machine::memory(), *unused = *total - in_use, SUCCESS; }
int cuMemAlloc_v2(unsigned long *address, size_t bytes) { return take(address, bytes); }
int cuMemAllocAsync(unsigned long *address, size_t bytes, void *) { return take(address, bytes); }
int cuMemFree_v2(unsigned long address) { return give(address); }
int cuMemFreeAsync(unsigned long address, void *) { return give(address); }
int cuMemAllocHost_v2(void **address, size_t bytes) { return *address = aligned_alloc(512, (bytes + 511) / 512 * 512), SUCCESS; }
int cuMemFreeHost(void *address) { return free(address), SUCCESS; }

namespace {
int copied(void *to, const void *from, size_t bytes, unsigned long device1, unsigned long device2, void *queue) {
    Locked locked(lock);
    if (int failed = begun(queue, "a copy")) return failed;
    for (unsigned long device : {device1, device2})
        if (device && !ptx::allocated(device, bytes)) return INVALID_VALUE;
    memmove(to, from, bytes);
    return SUCCESS;
}
} // namespace
int cuMemcpyHtoDAsync_v2(unsigned long to, const void *from, size_t bytes, void *queue) { return copied((void *)to, from, bytes, to, 0, queue); }
int cuMemcpyDtoHAsync_v2(void *to, unsigned long from, size_t bytes, void *queue) { return copied(to, (void *)from, bytes, from, 0, queue); }
int cuMemcpyDtoDAsync_v2(unsigned long to, unsigned long from, size_t bytes, void *queue) {
    return copied((void *)to, (void *)from, bytes, to, from, queue);
}
int cuMemsetD8Async(unsigned long to, unsigned char value, size_t bytes, void *queue) {
    Locked locked(lock);
    if (int failed = begun(queue, "a memset")) return failed;
    if (!ptx::allocated(to, bytes)) return INVALID_VALUE;
    if (!idle()) memset((void *)to, value, bytes);
    return broken;
}
struct Copy2D { // CUDA_MEMCPY2D
    size_t from_x, from_y;
    int from_kind;
    const void *from_host;
    unsigned long from_device;
    void *from_array;
    size_t from_pitch, to_x, to_y;
    int to_kind;
    void *to_host;
    unsigned long to_device;
    void *to_array;
    size_t to_pitch, width, height;
};
int cuMemcpy2DAsync_v2(const Copy2D *c, void *queue) {
    const bool from_host = c->from_kind == 1, to_host = c->to_kind == 1;
    for (size_t y = 0; y < c->height; y++) {
        const char *from = (from_host ? (const char *)c->from_host : (const char *)c->from_device) + (y + c->from_y) * c->from_pitch + c->from_x;
        char *to = (to_host ? (char *)c->to_host : (char *)c->to_device) + (y + c->to_y) * c->to_pitch + c->to_x;
        int failed = copied(to, from, c->width, from_host ? 0 : (unsigned long)from, to_host ? 0 : (unsigned long)to, queue);
        if (failed) return failed;
    }
    return SUCCESS;
}

int cuModuleLoadData(void **module, const void *image) {
    Locked locked(lock);
    if (broken) return broken;
    try {
        std::string text((const char *)image);
        *module = new Module{ptx::Reader(text).read()};
        loaded++;
        for (auto &[name, kernel] : ((Module *)*module)->kernels) log("%d load %zu %s\n", getpid(), kernel.code.size(), name.c_str());
        return SUCCESS;
    } catch (ptx::Unsupported &what) {
        fprintf(stderr, "emulated GPU: %s is not known\n", what.what());
        return INVALID_PTX;
    }
}
int cuModuleUnload(void *) { return SUCCESS; }
int cuModuleGetFunction(void **function, void *module, const char *name) {
    auto &kernels = ((Module *)module)->kernels;
    auto found = kernels.find(name);
    if (found == kernels.end()) return NOT_FOUND;
    return *function = &found->second, SUCCESS;
}
int cuFuncSetAttribute(void *, int, int value) { return value > 232448 ? INVALID_VALUE : SUCCESS; }
int cuLaunchKernel(void *function, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz, unsigned shared,
                   void *queue, void **arguments, void **) {
    Locked locked(lock);
    if (broken) return broken;
    const ptx::Kernel &kernel = *(ptx::Kernel *)function;
    if (int failed = begun(queue, kernel.name.c_str())) return failed;
    const unsigned long long threads = (unsigned long long)bx * by * bz;
    if (!gx || !gy || !gz || !threads || threads > 1024 || bz > 64 || gy > 65535 || gz > 65535 || shared + kernel.shared_bytes > 232448)
        return INVALID_VALUE;
    std::vector<char> params(kernel.param_bytes + 16);
    char *aligned = params.data() + (16 - (unsigned long)params.data() % 16) % 16;
    for (size_t n = 0; n < kernel.param_sizes.size(); n++) memcpy(aligned + kernel.param_offsets[n], arguments[n], kernel.param_sizes[n]);
    double steps = 1000;
    ptx::added.clear();
    ptx::moved = 0, ptx::counts_moved = getenv("EMULATED_LOG") != nullptr;
    try {
        // Twice as long as the last time, as is the work that such a measurement does until it has taken long enough.
        if (only_measures(kernel.name)) steps = 2e4 * (double)(1 << std::min(ran[kernel.name].times, 20L));
        else if (!idle()) steps += (double)ptx::execute(kernel, {{gx, gy, gz}, {bx, by, bz}, shared, aligned});
    } catch (ptx::Fault &fault) {
        fprintf(stderr, "emulated GPU: %s\n", fault.what());
        return broken = fault.code;
    } catch (ptx::Unsupported &what) {
        fprintf(stderr, "emulated GPU: %s is not known\n", what.what());
        return broken = ptx::ILLEGAL_INSTRUCTION;
    }
    Ran &entry = ran[kernel.name];
    entry.times++, entry.steps += steps, entry.moved += (double)ptx::moved;
    for (auto &[address, times] : ptx::added)
        if (times > 1) {
            entry.by_chance++;
            break;
        }
    ticks += price(kernel.name, steps);
    return SUCCESS;
}

int cuGetErrorName(int error, const char **name) {
    static const std::map<int, const char *> known = {
        {SUCCESS, "CUDA_SUCCESS"}, {INVALID_VALUE, "CUDA_ERROR_INVALID_VALUE"}, {OUT_OF_MEMORY, "CUDA_ERROR_OUT_OF_MEMORY"},
        {NO_DEVICE, "CUDA_ERROR_NO_DEVICE"}, {INVALID_DEVICE, "CUDA_ERROR_INVALID_DEVICE"}, {INVALID_PTX, "CUDA_ERROR_INVALID_PTX"},
        {NOT_FOUND, "CUDA_ERROR_NOT_FOUND"}, {ptx::ILLEGAL_ADDRESS, "CUDA_ERROR_ILLEGAL_ADDRESS"},
        {ptx::ILLEGAL_INSTRUCTION, "CUDA_ERROR_ILLEGAL_INSTRUCTION"}, {ptx::MISALIGNED_ADDRESS, "CUDA_ERROR_MISALIGNED_ADDRESS"},
        {ptx::LAUNCH_FAILED, "CUDA_ERROR_LAUNCH_FAILED"},
    };
    auto found = known.find(error);
    return *name = found == known.end() ? "CUDA_ERROR_UNKNOWN" : found->second, SUCCESS;
}
int cuGetErrorString(int error, const char **text) { return cuGetErrorName(error, text); }
}
