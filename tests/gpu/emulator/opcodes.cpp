// What each instruction does. One that is not here is refused when a module is loaded, by its name.
#include <unordered_map>

#include "execute.hpp"

namespace ptx {
namespace {

template <class T> T add(T a, T b) { return a + b; }
template <class T> T sub(T a, T b) { return a - b; }
template <class T> T mul(T a, T b) { return a * b; }
template <class T> T mad(T a, T b, T c) { return a * b + c; }
template <class T> T div_(T a, T b) { return b == 0 ? (T)~(T)0 : a / b; }
template <class T> T rem_(T a, T b) { return b == 0 ? a : a % b; }
template <class T> T min_(T a, T b) { return a < b ? a : b; }
template <class T> T max_(T a, T b) { return a > b ? a : b; }
template <class T> T and_(T a, T b) { return a & b; }
template <class T> T or_(T a, T b) { return a | b; }
template <class T> T xor_(T a, T b) { return a ^ b; }
template <class T> T not_(T a) { return ~a; }
template <class T> T neg(T a) { return -a; }
template <class T> T second(T, T b) { return b; }
u32 not_pred(u32 a) { return !a; }
s32 abs_i(s32 a) { return a < 0 ? -a : a; }
u16 mul_hi_16(u16 a, u16 b) { return (u16)((u32)a * b >> 16); }
u32 mul_hi(u32 a, u32 b) { return (u64)a * b >> 32; }
s32 mul_hi_s(s32 a, s32 b) { return (s64)a * b >> 32; }
u64 mul_hi_64(u64 a, u64 b) { return (unsigned __int128)a * b >> 64; }
u32 popc(u32 a) { return __builtin_popcount(a); }
u32 clz(u32 a) { return a ? __builtin_clz(a) : 32; }
u32 brev(u32 a) {
    u32 r = 0;
    for (int n = 0; n < 32; n++) r |= (a >> n & 1) << (31 - n);
    return r;
}
u32 bfe(u32 a, u32 from, u32 count) {
    from &= 255, count &= 255;
    if (from > 31 || !count) return 0;
    return a >> from & (count > 31 ? ~0u : (1u << count) - 1);
}

float div_f(float a, float b) { return a / b; }
float min_f(float a, float b) { return std::isnan(a) ? b : std::isnan(b) ? a : a < b || (a == b && std::signbit(a)) ? a : b; }
float max_f(float a, float b) { return std::isnan(a) ? b : std::isnan(b) ? a : a > b || (a == b && std::signbit(b)) ? a : b; }
float min_nan(float a, float b) { return std::isnan(a) ? a : std::isnan(b) ? b : min_f(a, b); }
float max_nan(float a, float b) { return std::isnan(a) ? a : std::isnan(b) ? b : max_f(a, b); }
float fma_f(float a, float b, float c) { return __builtin_fmaf(a, b, c); }
float fma_down(float a, float b, float c) {
    double exact = (double)a * b + c;
    float f = (float)exact;
    return f > exact ? std::nextafter(f, -INFINITY) : f;
}
float sqrt_f(float a) { return sqrtf(a); }
float rcp(float a) { return 1.0f / a; }
float rsqrt(float a) { return 1.0f / sqrtf(a); }
float ex2(float a) { return exp2f(a); }
float lg2(float a) { return log2f(a); }
float sin_f(float a) { return sinf(a); }
float cos_f(float a) { return cosf(a); }
float tanh_f(float a) { return tanhf(a); }
float abs_f(float a) { return fabsf(a); }
float neg_f(float a) { return -a; }
float copysign_(float sign, float a) { return copysignf(a, sign); }
double div_d(double a, double b) { return a / b; }
double fma_d(double a, double b, double c) { return fma(a, b, c); }
double sqrt_d(double a) { return sqrt(a); }
double rcp_d(double a) { return 1 / a; }
double min_d(double a, double b) { return fmin(a, b); }
double max_d(double a, double b) { return fmax(a, b); }
double abs_d(double a) { return fabs(a); }

template <class T> u32 eq(T a, T b) { return a == b; }
template <class T> u32 ne(T a, T b) { return a != b; }
template <class T> u32 lt(T a, T b) { return a < b; }
template <class T> u32 le(T a, T b) { return a <= b; }
template <class T> u32 gt(T a, T b) { return a > b; }
template <class T> u32 ge(T a, T b) { return a >= b; }
template <class T> u32 ne_ordered(T a, T b) { return a < b || a > b; }
template <class T> u32 equ(T a, T b) { return !(a < b || a > b); }
template <class T> u32 ltu(T a, T b) { return !(a >= b); }
template <class T> u32 leu(T a, T b) { return !(a > b); }
template <class T> u32 gtu(T a, T b) { return !(a <= b); }
template <class T> u32 geu(T a, T b) { return !(a < b); }
template <class T> u32 num(T a, T b) { return a == a && b == b; }
template <class T> u32 nan_(T a, T b) { return a != a || b != b; }

void move32(Warp &w, const Instr &i) {
    const u32 *a = w.at<u32>(i.a[1]);
    write<u32>(w, i.a[0], [&](int l) { return a[l]; });
}
void move64(Warp &w, const Instr &i) {
    const u64 *a = w.at<u64>(i.a[1]);
    write<u64>(w, i.a[0], [&](int l) { return a[l]; });
}
void pack32(Warp &w, const Instr &i) {
    const u32 *a = w.at<u32>(i.a[1]), *b = w.at<u32>(i.a[2]);
    write<u32>(w, i.a[0], [&](int l) { return (a[l] & 0xffff) | b[l] << 16; });
}
void unpack32(Warp &w, const Instr &i) {
    u32 from[LANES];
    memcpy(from, w.at<u32>(i.a[2]), sizeof from);
    write<u32>(w, i.a[0], [&](int l) { return from[l] & 0xffff; });
    write<u32>(w, i.a[1], [&](int l) { return from[l] >> 16; });
}
void pack64(Warp &w, const Instr &i) {
    const u32 *a = w.at<u32>(i.a[1]), *b = w.at<u32>(i.a[2]);
    write<u64>(w, i.a[0], [&](int l) { return a[l] | (u64)b[l] << 32; });
}
void unpack64(Warp &w, const Instr &i) {
    u64 from[LANES];
    memcpy(from, w.at<u64>(i.a[2]), sizeof from);
    write<u32>(w, i.a[0], [&](int l) { return (u32)from[l]; });
    write<u32>(w, i.a[1], [&](int l) { return (u32)(from[l] >> 32); });
}
template <class T> void select(Warp &w, const Instr &i) {
    const T *a = w.at<T>(i.a[1]), *b = w.at<T>(i.a[2]);
    const u32 *p = w.at<u32>(i.a[3]);
    write<T>(w, i.a[0], [&](int l) { return p[l] ? a[l] : b[l]; });
}
template <class T, int LEFT, bool SIGNED> void shift(Warp &w, const Instr &i) {
    using S = typename Slot<T>::type;
    constexpr u32 BITS = sizeof(T) * 8;
    const S *a = w.at<S>(i.a[1]);
    const u32 *b = w.at<u32>(i.a[2]);
    write<S>(w, i.a[0], [&](int l) -> S {
        if (b[l] >= BITS) return SIGNED ? (S)(T)((T)a[l] >> (BITS - 1)) : 0;
        return (S)(T)(LEFT ? (T)((T)a[l] << b[l]) : (T)((T)a[l] >> b[l]));
    });
}
template <class D, class A> void mul_wide(Warp &w, const Instr &i) {
    const u32 *a = w.at<u32>(i.a[1]), *b = w.at<u32>(i.a[2]);
    using S = typename Slot<D>::type;
    write<S>(w, i.a[0], [&](int l) { return (S)((D)(A)a[l] * (D)(A)b[l]); });
}
template <class A> void mad_wide(Warp &w, const Instr &i) {
    const u32 *a = w.at<u32>(i.a[1]), *b = w.at<u32>(i.a[2]);
    const u64 *c = w.at<u64>(i.a[3]);
    write<u64>(w, i.a[0], [&](int l) { return (u64)((s64)(A)a[l] * (s64)(A)b[l]) + c[l]; });
}
void lop3(Warp &w, const Instr &i) {
    const u32 *a = w.at<u32>(i.a[1]), *b = w.at<u32>(i.a[2]), *c = w.at<u32>(i.a[3]), *t = w.at<u32>(i.a[4]);
    write<u32>(w, i.a[0], [&](int l) {
        u32 r = 0;
        for (int n = 0; n < 8; n++)
            if (t[l] >> n & 1) r |= (n & 4 ? a[l] : ~a[l]) & (n & 2 ? b[l] : ~b[l]) & (n & 1 ? c[l] : ~c[l]);
        return r;
    });
}
void prmt(Warp &w, const Instr &i) {
    const u32 *a = w.at<u32>(i.a[1]), *b = w.at<u32>(i.a[2]), *c = w.at<u32>(i.a[3]);
    write<u32>(w, i.a[0], [&](int l) {
        u64 both = a[l] | (u64)b[l] << 32;
        u32 r = 0;
        for (int n = 0; n < 4; n++) {
            u32 which = c[l] >> 4 * n & 15, byte = both >> 8 * (which & 7) & 255;
            if (which & 8) byte = byte & 128 ? 255 : 0;
            r |= byte << 8 * n;
        }
        return r;
    });
}
template <bool LEFT> void funnel(Warp &w, const Instr &i) {
    const u32 *a = w.at<u32>(i.a[1]), *b = w.at<u32>(i.a[2]), *c = w.at<u32>(i.a[3]);
    write<u32>(w, i.a[0], [&](int l) {
        u64 both = a[l] | (u64)b[l] << 32;
        u32 by = c[l] & 31;
        return LEFT ? (u32)((both << by) >> 32) : (u32)(both >> by);
    });
}

// Conversions that are not in inner loops: by their names, through s64 or double.
struct Number {
    bool real, is_signed;
    int bits;
    std::string name;
};
Number number(const std::string &type) {
    if (type == "bf16") return {true, true, 16, type};
    int bits = std::stoi(type.substr(1));
    return {type[0] == 'f', type[0] == 's' || type[0] == 'f', bits, type};
}
double read_real(const Number &n, u64 v) {
    if (n.name == "bf16") return from_bf16((u16)v);
    if (n.bits == 16) return from_f16((u16)v);
    if (n.bits == 32) return as_float((u32)v);
    double d;
    memcpy(&d, &v, 8);
    return d;
}
u64 write_real(const Number &n, double d) {
    if (n.name == "bf16") return to_bf16((float)d);
    if (n.bits == 16) return to_f16((float)d);
    if (n.bits == 32) return as_bits((float)d);
    u64 v;
    memcpy(&v, &d, 8);
    return v;
}
struct Conversion {
    Number to, from;
    std::string rounding;
    bool sat = false;
};
std::vector<Conversion> conversions;

double rounded(double d, const std::string &how) {
    if (how == "rni" || how == "rn") return nearbyint(d);
    if (how == "rmi" || how == "rm") return floor(d);
    if (how == "rpi" || how == "rp") return ceil(d);
    return trunc(d);
}
u64 converted(const Conversion &c, u64 v) {
    u64 mask = c.from.bits == 64 ? ~0ull : (1ull << c.from.bits) - 1;
    if (c.from.real) {
        double d = read_real(c.from, v & mask);
        if (c.to.real) {
            if (!c.rounding.empty() && c.rounding.back() == 'i') d = rounded(d, c.rounding);
            else if (c.rounding == "rz" && c.to.bits == 32 && c.from.bits == 64) {
                float f = (float)d;
                if (fabs((double)f) > fabs(d)) f = nextafterf(f, 0);
                d = f;
            }
            if (c.sat) d = std::isnan(d) ? 0 : d < 0 ? 0 : d > 1 ? 1 : d;
            return write_real(c.to, d);
        }
        if (std::isnan(d)) return 0;
        d = rounded(d, c.rounding);
        double least = c.to.is_signed ? -ldexp(1, c.to.bits - 1) : 0, most = ldexp(1, c.to.bits - (c.to.is_signed ? 1 : 0));
        if (d <= least) return c.to.is_signed ? (u64)(s64)least : 0;
        if (d >= most) return c.to.is_signed ? (u64)((1ull << (c.to.bits - 1)) - 1) : c.to.bits == 64 ? ~0ull : (1ull << c.to.bits) - 1;
        return c.to.is_signed ? (u64)(s64)d : (u64)d;
    }
    u64 low = v & mask;
    s64 value = c.from.is_signed ? (s64)(low << (64 - c.from.bits)) >> (64 - c.from.bits) : (s64)low;
    if (c.to.real) {
        if (c.to.bits == 64) return write_real(c.to, c.from.is_signed ? (double)value : (double)low);
        float f = c.from.is_signed ? (float)value : (float)low; // one rounding
        return c.to.bits == 32 ? as_bits(f) : write_real(c.to, f);
    }
    if (c.sat) throw Unsupported("saturating conversion of integers");
    return (u64)value;
}
void convert_by_name(Warp &w, const Instr &i) {
    const Conversion &c = conversions[i.mode];
    for (int l = 0; l < LANES; l++) {
        if (!w.on(l)) continue;
        u64 v = i.a[1].wide ? w.at<u64>(i.a[1])[l] : w.at<u32>(i.a[1])[l];
        u64 r = converted(c, v);
        if (i.a[0].wide) w.at<u64>(i.a[0])[l] = r;
        else w.at<u32>(i.a[0])[l] = c.to.bits == 16 || c.to.bits == 8 ? (u32)r & ((1u << c.to.bits) - 1) : (u32)r;
    }
}
u64 widen_u32(u32 a) { return a; }
u32 narrow_u64(u64 a) { return (u32)a; }
u32 tf32(u32 a) { return to_tf32(a); }
u32 bf16_of(float a) { return to_bf16(a); }
float of_bf16(u32 a) { return from_bf16((u16)a); }
u32 f16_of(float a) { return to_f16(a); }
float of_f16(u32 a) { return from_f16((u16)a); }
template <u16 (*TO)(float)> void pair_of(Warp &w, const Instr &i) {
    const float *a = w.at<float>(i.a[1]), *b = w.at<float>(i.a[2]);
    write<u32>(w, i.a[0], [&](int l) { return (u32)TO(b[l]) | (u32)TO(a[l]) << 16; });
}

using Table = std::unordered_map<std::string, Execute>;

// For integers and real numbers; they differ in what is not equal.
template <class T> void orderings(Table &t, const std::string &type) {
    t["setp.eq." + type] = compare<T, eq<T>>;
    t["setp.lt." + type] = compare<T, lt<T>>;
    t["setp.le." + type] = compare<T, le<T>>;
    t["setp.gt." + type] = compare<T, gt<T>>;
    t["setp.ge." + type] = compare<T, ge<T>>;
}
template <class T> void integers(Table &t, const std::string &type) {
    t["add." + type] = binary<T, add<T>>;
    t["sub." + type] = binary<T, sub<T>>;
    t["mul.lo." + type] = binary<T, mul<T>>;
    t["mad.lo." + type] = ternary<T, mad<T>>;
    t["div." + type] = binary<T, div_<T>>;
    t["rem." + type] = binary<T, rem_<T>>;
    t["min." + type] = binary<T, min_<T>>;
    t["max." + type] = binary<T, max_<T>>;
    t["neg." + type] = unary<T, neg<T>>;
    orderings<T>(t, type);
    t["setp.ne." + type] = compare<T, ne<T>>;
    t["setp.lo." + type] = compare<T, lt<T>>;
    t["setp.ls." + type] = compare<T, le<T>>;
    t["setp.hi." + type] = compare<T, gt<T>>;
    t["setp.hs." + type] = compare<T, ge<T>>;
    t["shr." + type] = shift<T, 0, std::is_signed<T>::value>;
}
template <class T> void bits(Table &t, const std::string &type) {
    t["and." + type] = binary<T, and_<T>>;
    t["or." + type] = binary<T, or_<T>>;
    t["xor." + type] = binary<T, xor_<T>>;
    t["not." + type] = unary<T, not_<T>>;
    t["shl." + type] = shift<T, 1, false>;
    t["shr." + type] = shift<T, 0, false>;
    t["setp.eq." + type] = compare<T, eq<T>>;
    t["setp.ne." + type] = compare<T, ne<T>>;
}
template <class T> void comparisons(Table &t, const std::string &type) {
    orderings<T>(t, type);
    t["setp.ne." + type] = compare<T, ne_ordered<T>>;
    t["setp.equ." + type] = compare<T, equ<T>>;
    t["setp.neu." + type] = compare<T, ne<T>>;
    t["setp.ltu." + type] = compare<T, ltu<T>>;
    t["setp.leu." + type] = compare<T, leu<T>>;
    t["setp.gtu." + type] = compare<T, gtu<T>>;
    t["setp.geu." + type] = compare<T, geu<T>>;
    t["setp.num." + type] = compare<T, num<T>>;
    t["setp.nan." + type] = compare<T, nan_<T>>;
}
template <float (*FROM)(u16), u16 (*TO)(float)> void halves(Table &t, const std::string &type) {
    // A half alone lies in the low bits; the pair of it with whatever is above does no harm.
    for (std::string form : {type, type + "x2"}) {
        for (std::string rn : {"", "rn."}) {
            t["add." + rn + form] = binary_pair<FROM, TO, add<float>>;
            t["sub." + rn + form] = binary_pair<FROM, TO, sub<float>>;
            t["mul." + rn + form] = binary_pair<FROM, TO, mul<float>>;
        }
        t["fma.rn." + form] = ternary_pair<FROM, TO, fma_f>;
        t["min." + form] = binary_pair<FROM, TO, min_f>;
        t["max." + form] = binary_pair<FROM, TO, max_f>;
        t["min.NaN." + form] = binary_pair<FROM, TO, min_nan>;
        t["max.NaN." + form] = binary_pair<FROM, TO, max_nan>;
        t["neg." + form] = unary_pair<FROM, TO, neg_f>;
        t["abs." + form] = unary_pair<FROM, TO, abs_f>;
    }
}
template <class T, class S, Space SPACE> void memory_of(Table &t, const std::string &space, const std::string &type) {
    for (std::string cache : {"", ".nc", ".volatile", ".relaxed.gpu", ".relaxed.sys"}) {
        t["ld" + space + cache + "." + type] = t["ld" + cache + space + "." + type] = load<T, S, 1, SPACE>;
        t["ld" + space + cache + ".v2." + type] = t["ld" + cache + space + ".v2." + type] = load<T, S, 2, SPACE>;
        t["ld" + space + cache + ".v4." + type] = t["ld" + cache + space + ".v4." + type] = load<T, S, 4, SPACE>;
        t["st" + space + cache + "." + type] = t["st" + cache + space + "." + type] = store<T, 1, SPACE>;
        t["st" + space + cache + ".v2." + type] = t["st" + cache + space + ".v2." + type] = store<T, 2, SPACE>;
        t["st" + space + cache + ".v4." + type] = t["st" + cache + space + ".v4." + type] = store<T, 4, SPACE>;
    }
}
template <Space SPACE> void memory(Table &t, const std::string &space) {
    for (std::string type : {"b8", "u8"}) memory_of<uint8_t, u32, SPACE>(t, space, type);
    memory_of<int8_t, s32, SPACE>(t, space, "s8");
    for (std::string type : {"b16", "u16"}) memory_of<u16, u32, SPACE>(t, space, type);
    memory_of<int16_t, s32, SPACE>(t, space, "s16");
    for (std::string type : {"b32", "u32", "f32"}) memory_of<u32, u32, SPACE>(t, space, type);
    memory_of<s32, s64, SPACE>(t, space, "s32");
    for (std::string type : {"b64", "u64", "s64", "f64"}) memory_of<u64, u64, SPACE>(t, space, type);
}
template <class T> void atomics(Table &t, const std::string &space, const std::string &type, bool real) {
    for (std::string order : {"", ".relaxed", ".relaxed.gpu", ".relaxed.sys"}) {
        std::string head = "atom" + order + space, none = "red" + order + space;
        t[head + ".add." + type] = atomic<T, add<T>, true>;
        t[none + ".add." + type] = atomic<T, add<T>, false>;
        if (real) continue;
        t[head + ".min." + type] = atomic<T, min_<T>, true>;
        t[head + ".max." + type] = atomic<T, max_<T>, true>;
        t[head + ".exch." + type] = atomic<T, second<T>, true>;
    }
}

Table table() {
    Table t;
    integers<u16>(t, "u16"), integers<int16_t>(t, "s16"), integers<u32>(t, "u32"), integers<s32>(t, "s32");
    integers<u64>(t, "u64"), integers<s64>(t, "s64");
    bits<u16>(t, "b16"), bits<u32>(t, "b32"), bits<u64>(t, "b64"), bits<u32>(t, "pred");
    t["min.u16x2"] = binary_whole_pair<u16, min_<u16>>, t["max.u16x2"] = binary_whole_pair<u16, max_<u16>>;
    t["min.s16x2"] = binary_whole_pair<int16_t, min_<int16_t>>, t["max.s16x2"] = binary_whole_pair<int16_t, max_<int16_t>>;
    t["not.pred"] = unary<u32, not_pred>;
    t["abs.s32"] = unary<s32, abs_i>;
    t["mul.hi.u16"] = binary<u16, mul_hi_16>, t["mul.hi.u32"] = binary<u32, mul_hi>, t["mul.hi.s32"] = binary<s32, mul_hi_s>, t["mul.hi.u64"] = binary<u64, mul_hi_64>;
    t["mul.wide.u32"] = mul_wide<u64, u32>, t["mul.wide.s32"] = mul_wide<s64, s32>;
    t["mul.wide.u16"] = mul_wide<u32, u16>, t["mul.wide.s16"] = mul_wide<s32, int16_t>;
    t["mad.wide.u32"] = mad_wide<u32>, t["mad.wide.s32"] = mad_wide<s32>;
    t["popc.b32"] = unary<u32, popc>, t["clz.b32"] = unary<u32, clz>, t["brev.b32"] = unary<u32, brev>;
    t["bfe.u32"] = ternary<u32, bfe>;
    t["lop3.b32"] = lop3, t["prmt.b32"] = prmt, t["shf.l.wrap.b32"] = funnel<true>, t["shf.r.wrap.b32"] = funnel<false>;

    for (std::string rn : {"", "rn."}) {
        t["add." + rn + "f32"] = binary<float, add<float>>, t["sub." + rn + "f32"] = binary<float, sub<float>>;
        t["mul." + rn + "f32"] = binary<float, mul<float>>;
        t["add." + rn + "f64"] = binary<double, add<double>>, t["sub." + rn + "f64"] = binary<double, sub<double>>;
        t["mul." + rn + "f64"] = binary<double, mul<double>>;
    }
    t["fma.rn.f32"] = ternary<float, fma_f>, t["fma.rm.f32"] = ternary<float, fma_down>, t["fma.rn.f64"] = ternary<double, fma_d>;
    for (std::string how : {"rn", "full", "approx", "approx.ftz", "full.ftz"}) t["div." + how + ".f32"] = binary<float, div_f>;
    for (std::string how : {"rn", "approx", "approx.ftz"}) t["rcp." + how + ".f32"] = unary<float, rcp>, t["sqrt." + how + ".f32"] = unary<float, sqrt_f>;
    for (std::string how : {"approx", "approx.ftz"}) {
        t["rsqrt." + how + ".f32"] = unary<float, rsqrt>, t["ex2." + how + ".f32"] = unary<float, ex2>;
        t["lg2." + how + ".f32"] = unary<float, lg2>, t["sin." + how + ".f32"] = unary<float, sin_f>;
        t["cos." + how + ".f32"] = unary<float, cos_f>;
    }
    t["tanh.approx.f32"] = unary<float, tanh_f>;
    t["min.f32"] = binary<float, min_f>, t["max.f32"] = binary<float, max_f>;
    t["min.NaN.f32"] = binary<float, min_nan>, t["max.NaN.f32"] = binary<float, max_nan>;
    t["abs.f32"] = unary<float, abs_f>, t["neg.f32"] = unary<float, neg_f>, t["copysign.f32"] = binary<float, copysign_>;
    t["div.rn.f64"] = binary<double, div_d>, t["sqrt.rn.f64"] = unary<double, sqrt_d>, t["rcp.rn.f64"] = unary<double, rcp_d>;
    t["min.f64"] = binary<double, min_d>, t["max.f64"] = binary<double, max_d>;
    t["abs.f64"] = unary<double, abs_d>, t["neg.f64"] = unary<double, neg<double>>;
    comparisons<float>(t, "f32"), comparisons<double>(t, "f64");
    halves<from_bf16, to_bf16>(t, "bf16"), halves<from_f16, to_f16>(t, "f16");

    for (std::string type : {"b16", "b32", "u16", "u32", "s32", "f32", "pred"}) t["mov." + type] = move32;
    for (std::string type : {"b64", "u64", "s64", "f64"}) t["mov." + type] = move64;
    for (std::string type : {"b16", "b32", "u16", "u32", "s32", "f32"}) t["selp." + type] = select<u32>;
    for (std::string type : {"b64", "u64", "s64", "f64"}) t["selp." + type] = select<u64>;
    for (std::string space : {"shared", "local", "global", "param", "const"})
        t["cvta." + space + ".u64"] = t["cvta.to." + space + ".u64"] = move64;

    t["cvt.u64.u32"] = convert<u64, u32, widen_u32>, t["cvt.u32.u64"] = convert<u32, u64, narrow_u64>;
    t["cvt.rna.tf32.f32"] = unary<u32, tf32>;
    t["cvt.rn.bf16.f32"] = convert<u32, float, bf16_of>, t["cvt.f32.bf16"] = convert<float, u32, of_bf16>;
    t["cvt.rn.f16.f32"] = convert<u32, float, f16_of>, t["cvt.f32.f16"] = convert<float, u32, of_f16>;
    t["cvt.rn.bf16x2.f32"] = pair_of<to_bf16>, t["cvt.rn.f16x2.f32"] = pair_of<to_f16>;

    memory<GENERIC>(t, ""), memory<GLOBAL>(t, ".global"), memory<SHARED>(t, ".shared");
    memory<LOCAL>(t, ".local"), memory<PARAM>(t, ".param");
    for (std::string space : {"", ".global", ".shared"}) {
        atomics<float>(t, space, "f32", true), atomics<double>(t, space, "f64", true), atomics<u32>(t, space, "u32", false), atomics<s32>(t, space, "s32", false);
        atomics<u64>(t, space, "u64", false), atomics<u32>(t, space, "b32", false);
    }

    t["bra"] = t["bra.uni"] = branch;
    t["ret"] = t["exit"] = exit_lanes;
    t["bar.sync"] = t["barrier.sync"] = t["barrier.cta.sync.aligned.all"] = barrier;
    t["membar.gl"] = t["membar.cta"] = t["fence.acq_rel.gpu"] = t["fence.acq_rel.cta"] = t["fence.sc.gpu"] = t["fence.sc.cta"] = nothing;
    t["activemask.b32"] = active;
    t["bar.warp.sync"] = nothing;
    t["shfl.sync.idx.b32"] = shuffle<IDX>, t["shfl.sync.up.b32"] = shuffle<UP>;
    t["shfl.sync.down.b32"] = shuffle<DOWN>, t["shfl.sync.bfly.b32"] = shuffle<BFLY>;
    t["vote.sync.all.pred"] = vote<ALL>, t["vote.sync.any.pred"] = vote<ANY>, t["vote.sync.ballot.b32"] = vote<BALLOT>;

    t["mma.sync.aligned.m16n8k4.row.col.f32.tf32.tf32.f32"] = mma_tf32<4>;
    t["mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32"] = mma_tf32<8>;
    t["mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32"] = mma_f16<8>;
    t["mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32"] = mma_f16<16>;
    t["mma.sync.aligned.m16n8k8.row.col.f32.bf16.bf16.f32"] = mma_bf16<8>;
    t["mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32"] = mma_bf16<16>;

    for (std::string space : {"", ".shared", ".global"}) {
        auto loads = [&](const std::string &shape, char which, const std::string &type, Execute rows, Execute columns) {
            std::string head = std::string("wmma.load.") + which + ".sync.aligned.";
            t[head + "row." + shape + space + "." + type] = rows;
            t[head + "col." + shape + space + "." + type] = columns;
        };
        loads("m16n16k8", 'a', "tf32", wmma_load<16, 8, 4, false>, wmma_load<16, 8, 4, true>);
        loads("m16n16k8", 'b', "tf32", wmma_load<8, 16, 4, false>, wmma_load<8, 16, 4, true>);
        loads("m16n16k8", 'c', "f32", wmma_load<16, 16, 4, false>, wmma_load<16, 16, 4, true>);
        for (std::string type : {"f16", "bf16"}) {
            loads("m16n16k16", 'a', type, wmma_load<16, 16, 2, false>, wmma_load<16, 16, 2, true>);
            loads("m16n16k16", 'b', type, wmma_load<16, 16, 2, false>, wmma_load<16, 16, 2, true>);
            loads("m32n8k16", 'a', type, wmma_load<32, 16, 2, false>, wmma_load<32, 16, 2, true>);
            loads("m32n8k16", 'b', type, wmma_load<16, 8, 2, false>, wmma_load<16, 8, 2, true>);
            loads("m8n32k16", 'a', type, wmma_load<8, 16, 2, false>, wmma_load<8, 16, 2, true>);
            loads("m8n32k16", 'b', type, wmma_load<16, 32, 2, false>, wmma_load<16, 32, 2, true>);
        }
        loads("m16n16k16", 'c', "f32", wmma_load<16, 16, 4, false>, wmma_load<16, 16, 4, true>);
        loads("m32n8k16", 'c', "f32", wmma_load<32, 8, 4, false>, wmma_load<32, 8, 4, true>);
        loads("m8n32k16", 'c', "f32", wmma_load<8, 32, 4, false>, wmma_load<8, 32, 4, true>);
        loads("m16n16k16", 'c', "f16", wmma_load<16, 16, 2, false>, wmma_load<16, 16, 2, true>);
        auto stores = [&](const std::string &shape, const std::string &type, Execute rows, Execute columns) {
            t["wmma.store.d.sync.aligned.row." + shape + space + "." + type] = rows;
            t["wmma.store.d.sync.aligned.col." + shape + space + "." + type] = columns;
        };
        for (std::string shape : {"m16n16k8", "m16n16k16"}) stores(shape, "f32", wmma_store<16, 16, 4, false>, wmma_store<16, 16, 4, true>);
        stores("m32n8k16", "f32", wmma_store<32, 8, 4, false>, wmma_store<32, 8, 4, true>);
        stores("m8n32k16", "f32", wmma_store<8, 32, 4, false>, wmma_store<8, 32, 4, true>);
        stores("m16n16k16", "f16", wmma_store<16, 16, 2, false>, wmma_store<16, 16, 2, true>);
    }
    for (std::string a : {"row", "col"})
        for (std::string b : {"row", "col"}) {
            std::string head = "wmma.mma.sync.aligned." + a + "." + b + ".";
            t[head + "m16n16k8.f32.tf32.tf32.f32"] = wmma_mma<16, 16, 8, 4, tf32_of, false>;
            t[head + "m16n16k16.f32.f32"] = wmma_mma<16, 16, 16, 2, half_of, false>;
            t[head + "m16n16k16.f16.f16"] = wmma_mma<16, 16, 16, 2, half_of, true>;
            t[head + "m16n16k16.f32.bf16.bf16.f32"] = wmma_mma<16, 16, 16, 2, brain_of, false>;
            t[head + "m32n8k16.f32.f32"] = wmma_mma<32, 8, 16, 2, half_of, false>;
            t[head + "m32n8k16.f32.bf16.bf16.f32"] = wmma_mma<32, 8, 16, 2, brain_of, false>;
            t[head + "m8n32k16.f32.f32"] = wmma_mma<8, 32, 16, 2, half_of, false>;
            t[head + "m8n32k16.f32.bf16.bf16.f32"] = wmma_mma<8, 32, 16, 2, brain_of, false>;
        }
    for (std::string space : {".shared", ".shared::cta"}) {
        t["ldmatrix.sync.aligned.m8n8.x1" + space + ".b16"] = ldmatrix<1, false>;
        t["ldmatrix.sync.aligned.m8n8.x2" + space + ".b16"] = ldmatrix<2, false>;
        t["ldmatrix.sync.aligned.m8n8.x4" + space + ".b16"] = ldmatrix<4, false>;
        t["ldmatrix.sync.aligned.m8n8.x1.trans" + space + ".b16"] = ldmatrix<1, true>;
        t["ldmatrix.sync.aligned.m8n8.x2.trans" + space + ".b16"] = ldmatrix<2, true>;
        t["ldmatrix.sync.aligned.m8n8.x4.trans" + space + ".b16"] = ldmatrix<4, true>;
        t["stmatrix.sync.aligned.m8n8.x1" + space + ".b16"] = stmatrix<1, false>;
        t["stmatrix.sync.aligned.m8n8.x2" + space + ".b16"] = stmatrix<2, false>;
        t["stmatrix.sync.aligned.m8n8.x4" + space + ".b16"] = stmatrix<4, false>;
        t["stmatrix.sync.aligned.m8n8.x1.trans" + space + ".b16"] = stmatrix<1, true>;
        t["stmatrix.sync.aligned.m8n8.x2.trans" + space + ".b16"] = stmatrix<2, true>;
        t["stmatrix.sync.aligned.m8n8.x4.trans" + space + ".b16"] = stmatrix<4, true>;
    }
    return t;
}

} // namespace

Execute find(const std::string &opcode, Instr &instr) {
    static const Table known = table();
    if (opcode.compare(0, 4, "mov.") == 0 && instr.count() == 3) {
        bool into = instr.first == 2; // {low, high} = value
        bool wide = opcode == "mov.b64";
        if (wide) return into ? unpack64 : pack64;
        return into ? unpack32 : pack32;
    }
    if ((opcode == "bar.sync" || opcode == "barrier.sync") && instr.count() > 1) throw Unsupported("barriers of some threads");
    auto found = known.find(opcode);
    if (found != known.end()) {
        auto starts = [&](const char *with) { return opcode.compare(0, strlen(with), with) == 0; };
        if (starts("shfl.sync") || starts("vote.sync")) instr.collective = true, instr.mode = instr.count() - 1;
        if (opcode == "bar.warp.sync") instr.collective = true, instr.mode = 0;
        if (starts("mma.") || starts("wmma.") || starts("ldmatrix") || starts("stmatrix")) instr.collective = true, instr.mode = -1;
        return found->second;
    }
    if (opcode.compare(0, 4, "cvt.") == 0) {
        std::vector<std::string> parts;
        std::string part;
        for (char c : opcode.substr(4) + ".") {
            if (c == '.') parts.push_back(part), part.clear();
            else part += c;
        }
        Conversion c;
        if (parts.size() < 2 || parts.back().find("x2") != std::string::npos || parts[parts.size() - 2].find("x2") != std::string::npos)
            throw Unsupported(opcode);
        c.from = number(parts.back()), c.to = number(parts[parts.size() - 2]);
        for (size_t n = 0; n + 2 < parts.size(); n++) {
            if (parts[n] == "sat") c.sat = true;
            else if (parts[n][0] == 'r') c.rounding = parts[n];
            else if (parts[n] != "ftz") throw Unsupported(opcode);
        }
        conversions.push_back(c);
        instr.mode = (int)conversions.size() - 1;
        return convert_by_name;
    }
    throw Unsupported(opcode);
}

} // namespace ptx
