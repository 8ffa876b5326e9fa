// One warp of 32 lanes in lockstep, blocks one after the other.
#pragma once
#include <cmath>
#include <cstdio>
#include <memory>
#include <type_traits>
#include <unordered_map>

#include "ptx.hpp"

namespace ptx {

struct Fault : std::runtime_error {
    int code;
    Fault(int code, const std::string &what) : std::runtime_error(what), code(code) {}
};

// CUDA's numbers of what a kernel can do wrong.
constexpr int ILLEGAL_ADDRESS = 700, MISALIGNED_ADDRESS = 716, ILLEGAL_INSTRUCTION = 715, LAUNCH_FAILED = 719;

// Whether device memory may be read and written there.
bool allocated(u64 address, u64 bytes);

struct Warp {
    const Kernel *kernel = nullptr;
    char *memory = nullptr; // registers
    u32 mask = 0;           // lanes that execute now
    u32 pc[LANES] = {};
    u32 here = 0; // what they execute
    u32 live = 0, at_barrier = 0, stalled = 0;
    bool moved = false; // this instruction set `pc`
    char *shared = nullptr, *local = nullptr;
    const char *params = nullptr;
    u32 shared_bytes = 0;

    template <class T> T *at(const Operand &o) { return (T *)(memory + o.at); }
    template <class T> T *at(u32 place) { return (T *)(memory + place); }
    bool on(int lane) const { return mask >> lane & 1; }
};

inline float as_float(u32 v) { float f; memcpy(&f, &v, 4); return f; }
inline u32 as_bits(float f) { u32 v; memcpy(&v, &f, 4); return v; }

inline float from_bf16(u16 v) { return as_float((u32)v << 16); }
inline u16 to_bf16(float f) {
    u32 v = as_bits(f);
    if (std::isnan(f)) return 0x7fff;
    return (u16)((v + 0x7fff + (v >> 16 & 1)) >> 16);
}
inline float from_f16(u16 v) { _Float16 h; memcpy(&h, &v, 2); return (float)h; }
inline u16 to_f16(float f) { _Float16 h = (_Float16)f; u16 v; memcpy(&v, &h, 2); return v; }
// Nearest of 10 bits behind the point, ties away from zero.
inline u32 to_tf32(u32 v) { return (v & 0x7f800000) == 0x7f800000 ? v : (v + 0x1000) & ~0x1fffu; }
// What a tensor core reads of a register: it does not look at the other bits.
inline float read_tf32(u32 v) { return as_float(v & ~0x1fffu); }

template <class D, class F> inline void write(Warp &w, const Operand &d, F f) {
    D *out = w.at<D>(d);
    if (w.mask == ~0u) {
        for (int l = 0; l < LANES; l++) out[l] = f(l);
    } else {
        for (int l = 0; l < LANES; l++)
            if (w.mask >> l & 1) out[l] = f(l);
    }
}

// A value of type T in a register of 32 or 64 bits; narrow types lie in the low bits.
template <class T> struct Slot { using type = u32; };
template <> struct Slot<u64> { using type = u64; };
template <> struct Slot<s64> { using type = s64; };
template <> struct Slot<double> { using type = double; };
template <> struct Slot<float> { using type = float; };
template <> struct Slot<s32> { using type = s32; };

template <class T, T (*F)(T, T)> void binary(Warp &w, const Instr &i) {
    using S = typename Slot<T>::type;
    const S *a = w.at<S>(i.a[1]), *b = w.at<S>(i.a[2]);
    write<S>(w, i.a[0], [&](int l) { return (S)F((T)a[l], (T)b[l]); });
}
template <class T, T (*F)(T)> void unary(Warp &w, const Instr &i) {
    using S = typename Slot<T>::type;
    const S *a = w.at<S>(i.a[1]);
    write<S>(w, i.a[0], [&](int l) { return (S)F((T)a[l]); });
}
template <class T, T (*F)(T, T, T)> void ternary(Warp &w, const Instr &i) {
    using S = typename Slot<T>::type;
    const S *a = w.at<S>(i.a[1]), *b = w.at<S>(i.a[2]), *c = w.at<S>(i.a[3]);
    write<S>(w, i.a[0], [&](int l) { return (S)F((T)a[l], (T)b[l], (T)c[l]); });
}
template <class T, u32 (*F)(T, T)> void compare(Warp &w, const Instr &i) {
    using S = typename Slot<T>::type;
    const S *a = w.at<S>(i.a[1]), *b = w.at<S>(i.a[2]);
    write<u32>(w, i.a[0], [&](int l) { return F((T)a[l], (T)b[l]); });
}
// From a slot of one type to that of another.
template <class D, class A, D (*F)(A)> void convert(Warp &w, const Instr &i) {
    using SD = typename Slot<D>::type;
    using SA = typename Slot<A>::type;
    const SA *a = w.at<SA>(i.a[1]);
    write<SD>(w, i.a[0], [&](int l) { return (SD)F((A)a[l]); });
}

// Two halves in a register.
template <float (*FROM)(u16), u16 (*TO)(float), float (*F)(float, float)> void binary_pair(Warp &w, const Instr &i) {
    const u32 *a = w.at<u32>(i.a[1]), *b = w.at<u32>(i.a[2]);
    write<u32>(w, i.a[0], [&](int l) {
        u32 low = TO(F(FROM(a[l]), FROM(b[l]))), high = TO(F(FROM(a[l] >> 16), FROM(b[l] >> 16)));
        return low | high << 16;
    });
}
template <class T, T (*F)(T, T)> void binary_whole_pair(Warp &w, const Instr &i) {
    const u32 *a = w.at<u32>(i.a[1]), *b = w.at<u32>(i.a[2]);
    write<u32>(w, i.a[0], [&](int l) {
        u32 low = (u16)F((T)a[l], (T)b[l]), high = (u16)F((T)(a[l] >> 16), (T)(b[l] >> 16));
        return low | high << 16;
    });
}
template <float (*FROM)(u16), u16 (*TO)(float), float (*F)(float, float, float)>
void ternary_pair(Warp &w, const Instr &i) {
    const u32 *a = w.at<u32>(i.a[1]), *b = w.at<u32>(i.a[2]), *c = w.at<u32>(i.a[3]);
    write<u32>(w, i.a[0], [&](int l) {
        u32 low = TO(F(FROM(a[l]), FROM(b[l]), FROM(c[l])));
        u32 high = TO(F(FROM(a[l] >> 16), FROM(b[l] >> 16), FROM(c[l] >> 16)));
        return low | high << 16;
    });
}
template <float (*FROM)(u16), u16 (*TO)(float), float (*F)(float)> void unary_pair(Warp &w, const Instr &i) {
    const u32 *a = w.at<u32>(i.a[1]);
    write<u32>(w, i.a[0], [&](int l) { return (u32)TO(F(FROM(a[l]))) | (u32)TO(F(FROM(a[l] >> 16))) << 16; });
}

// Memory. Every address is one of this process; what it may point to is checked.
enum Space { GENERIC, GLOBAL, SHARED, LOCAL, PARAM };

inline void check(Warp &w, Space space, u64 address, u32 bytes) {
    if (address % bytes) throw Fault(MISALIGNED_ADDRESS, "misaligned address");
    char *p = (char *)address;
    auto within = [&](const char *from, u64 size) { return p >= from && p + bytes <= from + size; };
    bool good = false;
    if (space == SHARED || space == GENERIC) good = within(w.shared, w.shared_bytes);
    if (!good && (space == LOCAL || space == GENERIC)) good = within(w.local, (u64)w.kernel->local_bytes * LANES);
    if (!good && (space == PARAM || space == GENERIC)) good = within(w.params, w.kernel->param_bytes);
    if (!good && (space == GLOBAL || space == GENERIC)) good = allocated(address, bytes);
    if (!good) {
        char what[80];
        snprintf(what, sizeof what, "no memory of %u bytes at %#lx", bytes, (unsigned long)address);
        throw Fault(ILLEGAL_ADDRESS, what);
    }
}

// Bytes that launches moved between device memory and multiprocessors, in sectors as an H100 moves them, for each instruction
// of a warp; what a cache would have kept is counted again.
inline u64 moved = 0;
inline bool counts_moved = false;
constexpr u64 SECTOR = 32;

template <Space SPACE> inline void count_moved(Warp &w, const Operand &o, u64 bytes) {
    if (!counts_moved || (SPACE != GLOBAL && SPACE != GENERIC)) return;
    u64 seen[LANES];
    int many = 0;
    for (int l = 0; l < LANES; l++) {
        if (!w.on(l)) continue;
        u64 address = w.at<u64>(o)[l] + o.offset;
        const char *p = (const char *)address;
        if (p >= w.shared && p < w.shared + w.shared_bytes) continue;
        u64 sector = address / SECTOR;
        bool again = false;
        for (int k = many; k-- > 0 && !again;) again = seen[k] == sector;
        if (!again) seen[many++] = sector;
    }
    moved += (u64)many * (bytes > SECTOR ? bytes : SECTOR);
}

template <class T, class S, int N, Space SPACE> void load(Warp &w, const Instr &i) {
    const Operand &from = i.a[N];
    count_moved<SPACE>(w, from, sizeof(T) * N);
    for (int l = 0; l < LANES; l++) {
        if (!w.on(l)) continue;
        u64 address = w.at<u64>(from)[l] + from.offset;
        check(w, SPACE, address, sizeof(T) * N);
        for (int n = 0; n < N; n++) {
            T value;
            memcpy(&value, (char *)address + n * sizeof(T), sizeof(T));
            if (i.a[n].wide) w.at<u64>(i.a[n])[l] = (u64)(S)value;
            else w.at<u32>(i.a[n])[l] = (u32)(S)value;
        }
    }
}
template <class T, int N, Space SPACE> void store(Warp &w, const Instr &i) {
    const Operand &to = i.a[0];
    count_moved<SPACE>(w, to, sizeof(T) * N);
    for (int l = 0; l < LANES; l++) {
        if (!w.on(l)) continue;
        u64 address = w.at<u64>(to)[l] + to.offset;
        check(w, SPACE, address, sizeof(T) * N);
        for (int n = 0; n < N; n++) {
            T value = i.a[n + 1].wide ? (T)w.at<u64>(i.a[n + 1])[l] : (T)w.at<u32>(i.a[n + 1])[l];
            memcpy((char *)address + n * sizeof(T), &value, sizeof(T));
        }
    }
}

// Where real numbers were added to what others of the same launch may have added to: on a GPU the order, and so the last bit
// of the sum, is chance.
inline std::unordered_map<u64, u32> added;

// Lanes one after the other, by number. `RESULT` says whether the value before is wanted.
template <class T, T (*F)(T, T), bool RESULT> void atomic(Warp &w, const Instr &i) {
    const Operand &to = i.a[RESULT ? 1 : 0], &by = i.a[RESULT ? 2 : 1];
    for (int l = 0; l < LANES; l++) {
        if (!w.on(l)) continue;
        u64 address = w.at<u64>(to)[l] + to.offset;
        check(w, GENERIC, address, sizeof(T));
        if (!std::is_integral<T>::value) added[address]++;
        T old, add;
        memcpy(&old, (char *)address, sizeof(T));
        memcpy(&add, sizeof(T) == 8 ? (void *)&w.at<u64>(by)[l] : (void *)&w.at<u32>(by)[l], sizeof(T));
        T now = F(old, add);
        memcpy((char *)address, &now, sizeof(T));
        if (RESULT) memcpy(sizeof(T) == 8 ? (void *)&w.at<u64>(i.a[0])[l] : (void *)&w.at<u32>(i.a[0])[l], &old, sizeof(T));
    }
}

inline void branch(Warp &w, const Instr &i) {
    for (int l = 0; l < LANES; l++)
        if (w.on(l)) w.pc[l] = i.target;
    w.moved = true;
}
inline void exit_lanes(Warp &w, const Instr &) {
    w.live &= ~w.mask;
    w.moved = true;
}
inline void barrier(Warp &w, const Instr &) {
    for (int l = 0; l < LANES; l++)
        if (w.on(l)) w.pc[l] = w.here + 1;
    w.at_barrier |= w.mask;
    w.moved = true;
}
inline void nothing(Warp &, const Instr &) {}

// Collectives. `mask` holds all lanes they name.
enum Shuffle { IDX, UP, DOWN, BFLY };
template <Shuffle KIND> void shuffle(Warp &w, const Instr &i) {
    bool told = i.count() == 6; // with a predicate: whether the source was in range
    const u32 *a = w.at<u32>(i.a[1 + told]), *b = w.at<u32>(i.a[2 + told]), *c = w.at<u32>(i.a[3 + told]);
    u32 out[LANES], good[LANES];
    for (int l = 0; l < LANES; l++) {
        int seg = c[l] >> 8 & 31, clamp = c[l] & 31, by = b[l] & 31;
        int top = (l & seg) | (clamp & ~seg), low = l & seg;
        int j = KIND == IDX ? (low | (by & ~seg)) : KIND == UP ? l - by : KIND == DOWN ? l + by : l ^ by;
        good[l] = KIND == UP ? j >= top : j <= top;
        out[l] = a[good[l] ? j : l];
    }
    write<u32>(w, i.a[0], [&](int l) { return out[l]; });
    if (told) write<u32>(w, i.a[1], [&](int l) { return good[l]; });
}
enum Vote { ALL, ANY, BALLOT };
template <Vote KIND> void vote(Warp &w, const Instr &i) {
    const u32 *p = w.at<u32>(i.a[1]);
    u32 set = 0;
    for (int l = 0; l < LANES; l++)
        if (w.on(l) && p[l]) set |= 1u << l;
    u32 out = KIND == ALL ? set == w.mask : KIND == ANY ? set != 0 : set;
    write<u32>(w, i.a[0], [&](int) { return out; });
}
inline void active(Warp &w, const Instr &i) {
    write<u32>(w, i.a[0], [&](int) { return w.mask; });
}

inline u64 address_of(Warp &w, const Operand &o, int lane) { return w.at<u64>(o)[lane] + o.offset; }

// D = A B + C, by the layouts of registers in the PTX manual (mma.sync.m16n8k*).
template <int K, class READ, int PER> void mma(Warp &w, const Instr &i, READ read) {
    constexpr int A = 16 * K / 32 / PER, B = 8 * K / 32 / PER; // registers
    float a[16][K], b[K][8];
    for (int l = 0; l < LANES; l++) {
        int g = l >> 2, t = l & 3;
        for (int r = 0; r < A; r++)
            for (int e = 0; e < PER; e++) {
                int row = g + 8 * (r & 1), column = PER * t + e + (r >> 1) * 4 * PER;
                a[row][column] = read(w.at<u32>(i.a[4 + r])[l], e);
            }
        for (int r = 0; r < B; r++)
            for (int e = 0; e < PER; e++) b[PER * t + e + r * 4 * PER][g] = read(w.at<u32>(i.a[4 + A + r])[l], e);
    }
    float d[16][8];
    for (int l = 0; l < LANES; l++)
        for (int r = 0; r < 4; r++) d[(l >> 2) + 8 * (r >> 1)][2 * (l & 3) + (r & 1)] = as_float(w.at<u32>(i.a[4 + A + B + r])[l]);
    for (int m = 0; m < 16; m++)
        for (int k = 0; k < K; k++)
            for (int n = 0; n < 8; n++) d[m][n] += a[m][k] * b[k][n];
    for (int l = 0; l < LANES; l++)
        for (int r = 0; r < 4; r++) w.at<u32>(i.a[r])[l] = as_bits(d[(l >> 2) + 8 * (r >> 1)][2 * (l & 3) + (r & 1)]);
}
inline float half_of(u32 v, int e) { return from_f16((u16)(v >> 16 * e)); }
inline float brain_of(u32 v, int e) { return from_bf16((u16)(v >> 16 * e)); }
inline float tf32_of(u32 v, int) { return read_tf32(v); }
template <int K> void mma_f16(Warp &w, const Instr &i) { mma<K, decltype(&half_of), 2>(w, i, half_of); }
template <int K> void mma_bf16(Warp &w, const Instr &i) { mma<K, decltype(&brain_of), 2>(w, i, brain_of); }
template <int K> void mma_tf32(Warp &w, const Instr &i) { mma<K, decltype(&tf32_of), 1>(w, i, tf32_of); }

// A fragment of wmma: which lane has which element is not told by the manual. Here element `e`, counted along rows, lies in
// lane `e % 32`; two to a register where they are halves.
template <int BYTES> u32 &element(Warp &w, const Operand *registers, int e) {
    return w.at<u32>(registers[BYTES == 2 ? e / 64 : e / 32])[BYTES == 2 ? e / 2 % 32 : e % 32];
}
template <int ROWS, int COLUMNS, int BYTES, bool BY_COLUMN> void wmma_load(Warp &w, const Instr &i) {
    const Operand &from = i.a[i.first];
    u32 stride = i.count() > i.first + 1 ? w.at<u32>(i.a[i.first + 1])[0] : (BY_COLUMN ? ROWS : COLUMNS);
    for (int r = 0; r < ROWS; r++)
        for (int c = 0; c < COLUMNS; c++) {
            u64 address = address_of(w, from, 0) + (u64)BYTES * (BY_COLUMN ? c * stride + r : r * stride + c);
            check(w, GENERIC, address, BYTES);
            int e = r * COLUMNS + c;
            u32 &slot = element<BYTES>(w, i.a.data(), e);
            if (BYTES == 4) memcpy(&slot, (char *)address, 4);
            else {
                u16 half;
                memcpy(&half, (char *)address, 2);
                slot = e & 1 ? (slot & 0xffff) | (u32)half << 16 : (slot & 0xffff0000) | half;
            }
        }
    // Fragments of f16 have room for every element twice.
    constexpr int USED = ROWS * COLUMNS * BYTES / 4 / 32;
    for (int r = USED; r < i.first; r++) memcpy(w.at<u32>(i.a[r]), w.at<u32>(i.a[r - USED]), 4 * LANES);
}
template <int ROWS, int COLUMNS, int BYTES, bool BY_COLUMN> void wmma_store(Warp &w, const Instr &i) {
    int last = i.first; // [address] {registers} stride
    u32 stride = i.count() > last ? w.at<u32>(i.a[last])[0] : (BY_COLUMN ? ROWS : COLUMNS);
    for (int r = 0; r < ROWS; r++)
        for (int c = 0; c < COLUMNS; c++) {
            u64 address = address_of(w, i.a[0], 0) + (u64)BYTES * (BY_COLUMN ? c * stride + r : r * stride + c);
            check(w, GENERIC, address, BYTES);
            int e = r * COLUMNS + c;
            u32 value = element<BYTES>(w, i.a.data() + 1, e);
            if (BYTES == 2) {
                u16 half = (u16)(value >> 16 * (e & 1));
                memcpy((char *)address, &half, 2);
            } else memcpy((char *)address, &value, 4);
        }
}
template <int M, int N, int K, int BYTES, float (*READ)(u32, int), bool HALF_RESULT> void wmma_mma(Warp &w, const Instr &i) {
    int results = HALF_RESULT ? M * N / 64 : M * N / 32;
    // As many registers as the elements fill; f16 has eight for each whatever the shape.
    constexpr int FILLED_A = M * K * BYTES / 4 / 32, FILLED_B = K * N * BYTES / 4 / 32;
    const int given = i.count() - 2 * results;
    const bool filled = given == FILLED_A + FILLED_B;
    if (!filled && given != 16) throw Fault(ILLEGAL_INSTRUCTION, "fragments of another shape");
    const Operand *a = i.a.data() + results, *b = a + (filled ? FILLED_A : 8), *c = b + (filled ? FILLED_B : 8);
    float x[M][K], y[K][N], d[M][N];
    for (int e = 0; e < M * K; e++) x[e / K][e % K] = READ(element<BYTES>(w, a, e), e & 1);
    for (int e = 0; e < K * N; e++) y[e / N][e % N] = READ(element<BYTES>(w, b, e), e & 1);
    for (int e = 0; e < M * N; e++)
        d[e / N][e % N] = HALF_RESULT ? half_of(element<2>(w, c, e), e & 1) : as_float(element<4>(w, c, e));
    for (int m = 0; m < M; m++)
        for (int k = 0; k < K; k++)
            for (int n = 0; n < N; n++) d[m][n] += x[m][k] * y[k][n];
    for (int e = 0; e < M * N; e++) {
        float v = d[e / N][e % N];
        if (!HALF_RESULT) element<4>(w, i.a.data(), e) = as_bits(v);
        else {
            u32 &slot = element<2>(w, i.a.data(), e), half = to_f16(v);
            slot = e & 1 ? (slot & 0xffff) | half << 16 : (slot & 0xffff0000) | half;
        }
    }
}

// ldmatrix and stmatrix: lane `8 m + r` holds the address of row `r` of matrix `m`.
template <int COUNT, bool TRANSPOSED> void ldmatrix(Warp &w, const Instr &i) {
    u32 out[COUNT][LANES];
    for (int m = 0; m < COUNT; m++)
        for (int l = 0; l < LANES; l++) {
            u16 pair[2];
            for (int e = 0; e < 2; e++) {
                int row = TRANSPOSED ? 2 * (l & 3) + e : l >> 2, column = TRANSPOSED ? l >> 2 : 2 * (l & 3) + e;
                u64 address = address_of(w, i.a[COUNT], 8 * m + row);
                check(w, SHARED, address, 16);
                memcpy(&pair[e], (char *)address + 2 * column, 2);
            }
            out[m][l] = pair[0] | (u32)pair[1] << 16;
        }
    for (int m = 0; m < COUNT; m++) memcpy(w.at<u32>(i.a[m]), out[m], sizeof out[m]);
}
template <int COUNT, bool TRANSPOSED> void stmatrix(Warp &w, const Instr &i) {
    for (int m = 0; m < COUNT; m++)
        for (int l = 0; l < LANES; l++)
            for (int e = 0; e < 2; e++) {
                int row = TRANSPOSED ? 2 * (l & 3) + e : l >> 2, column = TRANSPOSED ? l >> 2 : 2 * (l & 3) + e;
                u64 address = address_of(w, i.a[0], 8 * m + row);
                check(w, SHARED, address, 16);
                u16 half = (u16)(w.at<u32>(i.a[1 + m])[l] >> 16 * e);
                memcpy((char *)address + 2 * column, &half, 2);
            }
}

// Runs a warp until all its lanes have left or wait at the barrier of the block. Returns how many instructions it took.
inline u64 run(Warp &w) {
    const std::vector<Instr> &code = w.kernel->code;
    u64 steps = 0;
    for (;;) {
        u32 runnable = w.live & ~w.at_barrier & ~w.stalled;
        if (!runnable) {
            if (w.stalled) throw Fault(LAUNCH_FAILED, "lanes wait for others of their warp that never come");
            return steps;
        }
        // Those that are furthest behind, until they meet others.
        u32 least = ~0u, next = ~0u;
        for (int l = 0; l < LANES; l++)
            if (runnable >> l & 1) {
                if (w.pc[l] < least) next = least, least = w.pc[l];
                else if (w.pc[l] > least && w.pc[l] < next) next = w.pc[l];
            }
        u32 group = 0;
        for (int l = 0; l < LANES; l++)
            if (runnable >> l & 1 && w.pc[l] == least) group |= 1u << l;
        w.here = least;
        for (;;) {
            const Instr &i = code[w.here];
            steps++;
            u32 mask = group;
            if (i.collective) {
                u32 together = group;
                for (int l = 0; l < LANES; l++)
                    if (w.stalled >> l & 1 && w.pc[l] == w.here) together |= 1u << l;
                u32 named = ~0u;
                if (i.mode >= 0) named = w.at<u32>(i.a[i.mode])[__builtin_ctz(group)];
                named &= w.live;
                if ((together & named) != named) {
                    for (int l = 0; l < LANES; l++)
                        if (group >> l & 1) w.pc[l] = w.here;
                    w.stalled |= group;
                    break;
                }
                w.stalled &= ~together;
                group = mask = together;
            }
            if (i.guard >= 0) {
                const u32 *p = w.at<u32>((u32)i.guard);
                u32 set = 0;
                for (int l = 0; l < LANES; l++) set |= (u32)((p[l] != 0) != i.negated) << l;
                mask &= set;
            }
            w.moved = false;
            w.mask = mask;
            if (mask) i.execute(w, i);
            if (w.moved) {
                for (int l = 0; l < LANES; l++)
                    if ((group & ~mask) >> l & 1) w.pc[l] = w.here + 1;
                bool whole = mask == group && i.execute == branch && (i.target < next) == (w.here < next) && i.target != next;
                if (!whole) break;
                w.here = i.target;
                if (w.here >= next) break;
            } else if (++w.here >= next) {
                for (int l = 0; l < LANES; l++)
                    if (group >> l & 1) w.pc[l] = w.here;
                break;
            }
        }
    }
}

struct Launch {
    u32 grid[3], block[3];
    u32 shared_bytes; // beside what the kernel declares
    const char *params;
};

// All blocks, one after the other. Returns how many instructions of warps it took.
inline u64 execute(const Kernel &kernel, const Launch &launch) {
    u32 threads = launch.block[0] * launch.block[1] * launch.block[2];
    u32 warps = (threads + LANES - 1) / LANES;
    u32 size = (kernel.warp_bytes + 63) / 64 * 64;
    std::unique_ptr<char[], void (*)(void *)> memory((char *)aligned_alloc(64, (u64)std::max(size, 64u) * warps), free);
    u32 shared_bytes = (kernel.shared_bytes + 127) / 128 * 128 + launch.shared_bytes;
    std::unique_ptr<char[], void (*)(void *)> shared((char *)aligned_alloc(1024, (shared_bytes + 2047) / 1024 * 1024), free);
    u64 local_bytes = (u64)kernel.local_bytes * LANES;
    std::unique_ptr<char[], void (*)(void *)> local((char *)aligned_alloc(64, (local_bytes * warps + 127) / 64 * 64), free);
    std::vector<Warp> all(warps);
    for (u32 n = 0; n < warps; n++) {
        Warp &w = all[n];
        w.kernel = &kernel;
        w.memory = memory.get() + (u64)size * n;
        memset(w.memory, 0, size);
        w.shared = shared.get();
        w.shared_bytes = shared_bytes;
        w.local = local.get() + local_bytes * n;
        w.params = launch.params;
        for (const Constant &c : kernel.constants)
            for (int l = 0; l < LANES; l++) {
                u64 value = c.value;
                if (c.late == Late::Shared) value += (u64)w.shared;
                if (c.late == Late::Param) value += (u64)w.params;
                if (c.late == Late::Local) value += (u64)w.local + (u64)kernel.local_bytes * l;
                if (c.wide) w.at<u64>(c.at)[l] = value;
                else w.at<u32>(c.at)[l] = (u32)value;
            }
    }
    u64 steps = 0;
    for (u32 bz = 0; bz < launch.grid[2]; bz++)
        for (u32 by = 0; by < launch.grid[1]; by++)
            for (u32 bx = 0; bx < launch.grid[0]; bx++) {
                // What a block finds in shared memory is not what another left there.
                memset(shared.get(), 0xff, shared_bytes);
                for (u32 n = 0; n < warps; n++) {
                    Warp &w = all[n];
                    u32 lanes = std::min<u32>(LANES, threads - n * LANES);
                    w.live = lanes == LANES ? ~0u : (1u << lanes) - 1;
                    w.at_barrier = w.stalled = 0;
                    memset(w.pc, 0, sizeof w.pc);
                    for (const Special &s : kernel.specials) {
                        u32 *out = w.at<u32>(s.at);
                        for (int l = 0; l < LANES; l++) {
                            u32 t = n * LANES + l;
                            const u32 tid[3] = {t % launch.block[0], t / launch.block[0] % launch.block[1], t / launch.block[0] / launch.block[1]};
                            const u32 cta[3] = {bx, by, bz};
                            int axis = s.name.back() - 'x';
                            if (s.name.compare(0, 4, "tid.") == 0) out[l] = tid[axis];
                            else if (s.name.compare(0, 6, "ctaid.") == 0) out[l] = cta[axis];
                            else if (s.name.compare(0, 5, "ntid.") == 0) out[l] = launch.block[axis];
                            else if (s.name.compare(0, 7, "nctaid.") == 0) out[l] = launch.grid[axis];
                            else if (s.name == "laneid") out[l] = l;
                            else if (s.name == "warpid") out[l] = n;
                            else throw Unsupported("register %" + s.name);
                        }
                    }
                }
                for (bool left = true; left;) {
                    left = false;
                    for (Warp &w : all) {
                        try {
                            steps += run(w);
                        } catch (Fault &fault) {
                            const Instr &i = kernel.code[w.here];
                            throw Fault(fault.code, kernel.name + ", line " + std::to_string(i.line) + " (" + i.text + "): " + fault.what());
                        }
                    }
                    for (Warp &w : all) {
                        left = left || w.at_barrier;
                        w.at_barrier = 0;
                    }
                }
            }
    return steps;
}

} // namespace ptx
