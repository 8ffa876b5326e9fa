// libnvidia-ml.so.1 without a GPU: what Sepia and CubeCL ask of NVIDIA's management library.
#include <dlfcn.h>
#include <unistd.h>

#include "machine.hpp"

namespace {

enum { SUCCESS = 0, INVALID_ARGUMENT = 2, NOT_FOUND = 6, INSUFFICIENT_SIZE = 7 };
// What a context takes before anything is computed.
constexpr unsigned long long CONTEXT = 500ull << 20;

int gpu_of(void *device) { return (int)(long)device - 1; }
void *device_of(int gpu) { return (void *)(long)(gpu + 1); }

// What this process holds, as the other library counts it.
unsigned long long held(int gpu) {
    auto in_use = (unsigned long long (*)())dlsym(RTLD_DEFAULT, "emulated_memory_in_use");
    if (!in_use) {
        void *library = dlopen("libcuda.so", RTLD_NOLOAD | RTLD_LAZY);
        if (!library) library = dlopen("libcuda.so.1", RTLD_NOLOAD | RTLD_LAZY);
        if (library) in_use = (unsigned long long (*)())dlsym(library, "emulated_memory_in_use");
    }
    auto visible = machine::visible();
    if (!in_use || visible.empty() || visible[0] != gpu) return 0;
    return CONTEXT + in_use();
}

struct Memory {
    unsigned long long total, unused, used;
};
struct Memory2 {
    unsigned version;
    unsigned long long total, reserved, unused, used;
};
struct Process {
    unsigned pid;
    unsigned long long used;
    unsigned instance, compute_instance;
};

} // namespace

extern "C" {
int nvmlInit_v2() { return SUCCESS; }
int nvmlInitWithFlags(unsigned) { return SUCCESS; }
int nvmlShutdown() { return SUCCESS; }
const char *nvmlErrorString(int) { return "emulated"; }
int nvmlSystemGetDriverVersion(char *text, unsigned size) { return snprintf(text, size, "580.0-emulated"), SUCCESS; }
int nvmlSystemGetCudaDriverVersion_v2(int *version) { return *version = 13000, SUCCESS; }
int nvmlDeviceGetCount_v2(unsigned *count) { return *count = machine::count(), SUCCESS; }
int nvmlDeviceGetHandleByIndex_v2(unsigned index, void **device) {
    if ((int)index >= machine::count()) return INVALID_ARGUMENT;
    return *device = device_of(index), SUCCESS;
}
int nvmlDeviceGetHandleByUUID(const char *uuid, void **device) {
    for (int gpu = 0; gpu < machine::count(); gpu++)
        if (machine::uuid(gpu) == uuid) return *device = device_of(gpu), SUCCESS;
    return NOT_FOUND;
}
int nvmlDeviceGetHandleByPciBusId_v2(const char *, void **device) { return *device = device_of(0), SUCCESS; }
int nvmlDeviceGetName(void *, char *text, unsigned size) { return snprintf(text, size, "Emulated H100"), SUCCESS; }
int nvmlDeviceGetUUID(void *device, char *text, unsigned size) {
    return snprintf(text, size, "%s", machine::uuid(gpu_of(device)).c_str()), SUCCESS;
}
int nvmlDeviceGetMemoryInfo(void *device, Memory *memory) {
    *memory = {machine::memory(), 0, held(gpu_of(device))};
    memory->unused = memory->total - memory->used;
    return SUCCESS;
}
int nvmlDeviceGetMemoryInfo_v2(void *device, Memory2 *memory) {
    memory->total = machine::memory(), memory->reserved = 0, memory->used = held(gpu_of(device));
    memory->unused = memory->total - memory->used;
    return SUCCESS;
}
int nvmlDeviceGetCudaComputeCapability(void *, int *major, int *minor) { return *major = 9, *minor = 0, SUCCESS; }
int nvmlDeviceGetComputeRunningProcesses_v3(void *device, unsigned *count, Process *processes) {
    unsigned long long bytes = held(gpu_of(device));
    unsigned room = *count;
    *count = bytes ? 1 : 0;
    if (room < *count) return INSUFFICIENT_SIZE;
    if (bytes) processes[0] = {(unsigned)getpid(), bytes, 0xffffffff, 0xffffffff};
    return SUCCESS;
}
}
