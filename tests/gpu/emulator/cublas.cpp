// libcublas.so.12 without a GPU: the products that Sepia asks for, on the processor. With the emulated driver it sees to it that
// operands and result are allocated, and that the streams wait for each other as they must (driver.cpp).
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <vector>

extern "C" {
// Of the driver.
int emulated_product(void *stream, const char *name, double steps);
bool emulated_allocated(unsigned long address, unsigned long bytes);
bool emulated_idle();
}

namespace {

enum { SUCCESS = 0, NOT_INITIALIZED = 1, INVALID_VALUE = 7, EXECUTION_FAILED = 13, NOT_SUPPORTED = 15 };
enum { F32 = 0, F16 = 2, BF16 = 14, COMPUTE_32F = 68, COMPUTE_32F_FAST_TF32 = 77 };

struct Handle {
    void *stream = nullptr;
};

size_t size_of(int type) { return type == F32 ? 4 : 2; }

float half_to_float(uint16_t h) {
    _Float16 value;
    memcpy(&value, &h, 2);
    return (float)value;
}
uint16_t float_to_half(float f) {
    _Float16 value = (_Float16)f;
    uint16_t bits;
    memcpy(&bits, &value, 2);
    return bits;
}
float bits_to_float(uint32_t bits) {
    float value;
    memcpy(&value, &bits, 4);
    return value;
}
uint32_t float_to_bits(float value) {
    uint32_t bits;
    memcpy(&bits, &value, 4);
    return bits;
}
// To the nearest, ties to even, after so many bits are gone.
uint32_t rounded(uint32_t bits, int gone) {
    if ((bits & 0x7fffffff) > 0x7f800000) return bits;
    const uint32_t half = 1u << (gone - 1);
    return (bits + half - 1 + (bits >> gone & 1)) & ~((1u << gone) - 1);
}

float loaded(const char *at, int type, bool tf32) {
    if (type == F32) {
        uint32_t bits;
        memcpy(&bits, at, 4);
        return bits_to_float(tf32 ? rounded(bits, 13) : bits);
    }
    uint16_t bits;
    memcpy(&bits, at, 2);
    return type == F16 ? half_to_float(bits) : bits_to_float((uint32_t)bits << 16);
}
void store(char *at, int type, float value) {
    if (type == F32) {
        memcpy(at, &value, 4);
        return;
    }
    const uint16_t bits = type == F16 ? float_to_half(value) : (uint16_t)(rounded(float_to_bits(value), 16) >> 16);
    memcpy(at, &bits, 2);
}

// Elements that a stack of `count` matrices of `columns` columns reaches over.
unsigned long reach(long rows, long columns, long leading, long long step, int count) {
    return (unsigned long)((count - 1) * step + (columns - 1) * leading + rows);
}

} // namespace

extern "C" {

int cublasCreate_v2(void **handle) { return *handle = new Handle, SUCCESS; }
int cublasGetVersion_v2(void *, int *version) { return *version = 129999, SUCCESS; }
int cublasSetStream_v2(void *handle, void *stream) { return ((Handle *)handle)->stream = stream, SUCCESS; }
int cublasSetMathMode(void *, int mode) { return mode & ~16 ? NOT_SUPPORTED : SUCCESS; }

int cublasGemmStridedBatchedEx(void *handle, int transa, int transb, int m, int n, int k, const float *alpha, unsigned long a, int type_a, int lda,
                               long long step_a, unsigned long b, int type_b, int ldb, long long step_b, const float *beta, unsigned long c,
                               int type_c, int ldc, long long step_c, int count, int compute, int) {
    if (!handle) return NOT_INITIALIZED;
    const bool known = (type_a == F32 || type_a == F16 || type_a == BF16) && type_b == type_a && (type_c == type_a || type_c == F32) &&
                       (compute == COMPUTE_32F || (compute == COMPUTE_32F_FAST_TF32 && type_a == F32));
    if (!known) return NOT_SUPPORTED;
    const int rows_a = transa ? k : m, rows_b = transb ? n : k;
    if (m <= 0 || n <= 0 || k <= 0 || count <= 0 || lda < rows_a || ldb < rows_b || ldc < m || transa > 1 || transb > 1) return INVALID_VALUE;
    const struct {
        unsigned long at, elements;
        int type;
    } all[] = {{a, reach(rows_a, transa ? m : k, lda, step_a, count), type_a},
               {b, reach(rows_b, transb ? k : n, ldb, step_b, count), type_b},
               {c, reach(m, n, ldc, step_c, count), type_c}};
    for (auto &one : all) {
        if (one.at % size_of(one.type)) return INVALID_VALUE;
        if (!emulated_allocated(one.at, one.elements * size_of(one.type))) {
            fprintf(stderr, "emulated cuBLAS: an operand or the result is not allocated\n");
            return EXECUTION_FAILED;
        }
    }
    char name[64];
    snprintf(name, sizeof name, "cublas_%d_%d_%c%c", type_a, type_c, transa ? 't' : 'n', transb ? 't' : 'n');
    if (emulated_product(((Handle *)handle)->stream, name, 2.0 * m * n * k * count / 8192)) return EXECUTION_FAILED;
    if (emulated_idle()) return SUCCESS;
    const bool tf32 = compute == COMPUTE_32F_FAST_TF32;
    std::vector<float> left((size_t)m * k), right((size_t)k * n), sums(m);
    for (int batch = 0; batch < count; batch++) {
        const char *pa = (const char *)a + batch * step_a * size_of(type_a), *pb = (const char *)b + batch * step_b * size_of(type_b);
        char *pc = (char *)c + batch * step_c * size_of(type_c);
        for (long p = 0; p < k; p++)
            for (long i = 0; i < m; i++) left[p * m + i] = loaded(pa + (transa ? i * lda + p : p * lda + i) * size_of(type_a), type_a, tf32);
        for (long j = 0; j < n; j++)
            for (long p = 0; p < k; p++) right[j * k + p] = loaded(pb + (transb ? p * ldb + j : j * ldb + p) * size_of(type_b), type_b, tf32);
        for (long j = 0; j < n; j++) {
            std::fill(sums.begin(), sums.end(), 0.0f);
            for (long p = 0; p < k; p++) {
                const float factor = right[j * k + p], *column = &left[p * m];
                for (long i = 0; i < m; i++) sums[i] += column[i] * factor;
            }
            for (long i = 0; i < m; i++) {
                char *at = pc + (j * ldc + i) * size_of(type_c);
                store(at, type_c, *alpha * sums[i] + (*beta ? *beta * loaded(at, type_c, false) : 0));
            }
        }
    }
    return SUCCESS;
}
int cublasGemmEx(void *handle, int transa, int transb, int m, int n, int k, const float *alpha, unsigned long a, int type_a, int lda,
                 unsigned long b, int type_b, int ldb, const float *beta, unsigned long c, int type_c, int ldc, int compute, int algorithm) {
    return cublasGemmStridedBatchedEx(handle, transa, transb, m, n, k, alpha, a, type_a, lda, 0, b, type_b, ldb, 0, beta, c, type_c, ldc, 0, 1,
                                      compute, algorithm);
}
}
