/* Integer, floating-point, x87 and vector arithmetic. */
#include "suite.h"
#include <fenv.h>
#include <immintrin.h>
#include <math.h>

void integers(void)
{
    uint64_t x = 0x0123456789abcdef, hash = 0;
    for (int round = 0; round < 200000; round++) {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        unsigned __int128 wide = (unsigned __int128)x * (hash | 1);
        hash = mix(hash, (uint64_t)(wide >> 64) + (uint64_t)wide);
        hash = mix(hash, (uint64_t)((int64_t)x / (int32_t)(hash | 1)) + x % ((hash >> 40) | 1));
        hash = mix(hash, (uint64_t)__builtin_popcountll(x) << (x & 63) | x >> (-x & 63));
        hash = mix(hash, (uint64_t)__builtin_ctzll(x | 1ul << 63) + (uint64_t)__builtin_clzll(x | 1));
        hash = mix(hash, __builtin_bswap64(x) + (uint16_t)(x * 3) + (uint64_t)(int8_t)x);
    }
    printf("hash %016lx\n", hash);
    unsigned __int128 factorial = 1;
    for (unsigned n = 2; n <= 33; n++)
        factorial *= n;
    printf("33! %016lx%016lx\n", (uint64_t)(factorial >> 64), (uint64_t)factorial);
    uint64_t primes = 0;
    static uint8_t sieve[200000];
    for (uint32_t n = 2; n < sizeof sieve; n++) {
        primes += !sieve[n];
        for (uint32_t multiple = n * 2; !sieve[n] && multiple < sizeof sieve; multiple += n)
            sieve[multiple] = 1;
    }
    printf("primes %lu\n", primes);
}

void floats(void)
{
    static const double values[] = { 0.1, 1.0 / 3, 5e-324, 2.2250738585072014e-308, 1.7976931348623157e308, -0.0, 123456789.125 };
    static const int modes[] = { FE_TONEAREST, FE_DOWNWARD, FE_UPWARD, FE_TOWARDZERO };
    for (size_t index = 0; index < sizeof values / sizeof *values; index++)
        printf("%.17g %a %.3f %e\n", values[index], values[index], values[index] < 1e20 ? values[index] : 0, values[index]);
    printf("%d %d\n", strtod("0.1e-320", NULL) > 0, strtod("4503599627370497.5", NULL) == 4503599627370498.0);
    for (size_t mode = 0; mode < 4; mode++) {
        fesetround(modes[mode]);
        volatile double a = 1, b = 3, c = -2;
        volatile float f = 16777217.0f, g = 0.1f;
        printf("%a %a %a %a %ld\n", a / b, c / b, sqrt(b), (double)(f * g), lrint(a / b * 1000000));
    }
    fesetround(FE_TONEAREST);
    feclearexcept(FE_ALL_EXCEPT);
    volatile double zero = 0, huge = 1e308, tiny = 1e-308;
    volatile double result = 1 / zero;
    printf("%d", !!fetestexcept(FE_DIVBYZERO));
    result = huge * huge;
    printf("%d", !!fetestexcept(FE_OVERFLOW));
    result = tiny * tiny;
    printf("%d", !!fetestexcept(FE_UNDERFLOW));
    result = zero / zero;
    printf("%d %d\n", !!fetestexcept(FE_INVALID), result != result);
    double sum = 0;
    for (int n = 1; n < 100000; n++)
        sum += (n % 2 ? 1.0 : -1.0) / n;
    printf("%.17g %a\n", sum, fma(1e16, 1.0000000000000002, -1e16));
}

void x87(void)
{
    long double sum = 0, x = 1;
    for (int n = 1; n < 50000; n++) {
        sum += 1.0L / (2 * n - 1) * (n % 2 ? 1 : -1);
        x = x * 1.0000001L + sum / 1000000;
    }
    printf("%.21Lg %La %.21Lg\n", sum * 4, sum, x);
    printf("%.20Lg %.20Lg %.20Lg\n", sqrtl(2), 1.0L / 3, fmodl(1e30L, 7));
    long double angle = 0.7L, sine, cosine, tangent, one, exponent, significand;
    __asm__("fsincos" : "=t"(cosine), "=u"(sine) : "0"(angle));
    __asm__("fptan" : "=t"(one), "=u"(tangent) : "0"(angle));
    __asm__("fxtract" : "=t"(significand), "=u"(exponent) : "0"(1234.5L));
    printf("%La %La %La %La %La %La\n", sine, cosine, tangent, one, significand, exponent);
    for (unsigned precision = 0; precision < 4; precision++) {
        uint16_t control = 0x3f | precision << 8 | 0x40, saved;
        long double third;
        __asm__("fnstcw %0\n fldcw %2\n fld1\n fld1\n fld1\n faddp\n fld1\n faddp\n fdivrp\n fstpt %1\n fldcw %0"
                : "=m"(saved), "=m"(third) : "m"(control));
        printf("%La ", third);
    }
    long double remainder = 1e18L;
    uint16_t status;
    int turns = 0;
    do {
        __asm__("fprem1\n fnstsw %1" : "+t"(remainder), "=a"(status) : "u"(3.25L));
        turns++;
    } while (status & 0x400);
    printf("\n%La %d\n", remainder, turns);
    uint8_t packed[10];
    long double decimal = -1234567890123456.0L;
    __asm__("fbstp %0" : "=m"(packed) : "t"(decimal) : "st");
    for (int byte = 9; byte >= 0; byte--)
        printf("%02x", packed[byte]);
    printf("\n");
}

__attribute__((target("sse2"))) static uint64_t sse2(void)
{
    __m128i v = _mm_set_epi32(1, -2, 3, -4), w = _mm_set_epi16(1, 2, 3, 4, 5, 6, 7, 8);
    __m128d d = _mm_set_pd(1.5, -2.25);
    for (int n = 0; n < 1000; n++) {
        v = _mm_add_epi32(_mm_shuffle_epi32(v, 0x4e), _mm_madd_epi16(v, w));
        w = _mm_packs_epi32(_mm_srai_epi32(v, 3), _mm_sub_epi32(v, w));
        d = _mm_sqrt_pd(_mm_add_pd(_mm_mul_pd(d, d), _mm_set1_pd(0.5)));
    }
    uint64_t hash = mix_bytes(0, &v, 16);
    return mix_bytes(mix_bytes(hash, &w, 16), &d, 16);
}
__attribute__((target("sse4.2,ssse3"))) static uint64_t sse4(void)
{
    __m128i v = _mm_setr_epi8(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15), order = _mm_set1_epi8(5);
    uint64_t hash = 0;
    for (int n = 0; n < 1000; n++) {
        v = _mm_shuffle_epi8(_mm_mullo_epi32(v, _mm_set1_epi32(n | 1)), _mm_add_epi8(order, _mm_set1_epi8(n)));
        v = _mm_blendv_epi8(v, _mm_abs_epi16(v), _mm_set_epi64x(n * 0x123456789, -n));
        hash = mix(hash, _mm_crc32_u64(n, _mm_extract_epi64(v, 1)) + _mm_cmpistri(v, order, 0x18));
        order = _mm_insert_epi16(order, n, 3);
    }
    return mix_bytes(hash, &v, 16);
}
__attribute__((target("avx2,fma"))) static uint64_t avx2(void)
{
    __m256i v = _mm256_set_epi32(1, 2, 3, 4, 5, 6, 7, 8);
    __m256d d = _mm256_set_pd(1, 2, 3, 4);
    static int table[64];
    for (int n = 0; n < 64; n++)
        table[n] = n * n;
    for (int n = 0; n < 1000; n++) {
        __m256i index = _mm256_and_si256(v, _mm256_set1_epi32(63));
        v = _mm256_add_epi32(_mm256_permutevar8x32_epi32(v, index), _mm256_i32gather_epi32(table, index, 4));
        v = _mm256_xor_si256(v, _mm256_sllv_epi32(v, _mm256_and_si256(index, _mm256_set1_epi32(15))));
        d = _mm256_fmadd_pd(d, _mm256_set1_pd(0.75), _mm256_hadd_pd(d, _mm256_set1_pd(1e-3)));
    }
    return mix_bytes(mix_bytes(0, &v, 32), &d, 32);
}
__attribute__((target("aes,pclmul,sse2"))) static uint64_t aes(void)
{
    __m128i state = _mm_set_epi32(1, 2, 3, 4), key = _mm_set_epi32(5, 6, 7, 8);
    for (int n = 0; n < 1000; n++) {
        state = _mm_aesenc_si128(state, key);
        key = _mm_xor_si128(_mm_aeskeygenassist_si128(key, 0x1b), _mm_aesdec_si128(key, state));
        state = _mm_xor_si128(state, _mm_clmulepi64_si128(state, key, 0x10));
    }
    return mix_bytes(0, &state, 16);
}
__attribute__((target("sha,sse4.1"))) static uint64_t sha(void)
{
    __m128i a = _mm_set_epi32(1, 2, 3, 4), b = _mm_set_epi32(5, 6, 7, 8), k = _mm_set_epi32(9, 10, 11, 12);
    for (int n = 0; n < 1000; n++) {
        a = _mm_sha256rnds2_epu32(a, b, k);
        b = _mm_sha256msg2_epu32(_mm_sha256msg1_epu32(b, a), k);
        k = _mm_sha1rnds4_epu32(k, _mm_sha1nexte_epu32(a, b), 2);
    }
    return mix_bytes(mix_bytes(0, &a, 16), &b, 16);
}
__attribute__((target("bmi,bmi2,adx,lzcnt,popcnt"))) static uint64_t bmi(void)
{
    uint64_t x = 0x123456789abcdef, hash = 0;
    unsigned long long high;
    for (int n = 0; n < 1000; n++) {
        x = _pdep_u64(x, 0xf0f0f0f0f0f0f0f0) ^ _pext_u64(~x, x * 3) ^ _mulx_u64(x, x + n, &high);
        hash = mix(hash, high + _bzhi_u64(x, n & 63) + _blsr_u64(x) + _lzcnt_u64(x) + _tzcnt_u64(x));
    }
    return hash;
}

void vectors(void)
{
    __builtin_cpu_init();
#define TEST(name, supported) printf(#name " %016lx\n", (supported) ? name() : 0)
    TEST(sse2, 1);
    TEST(sse4, __builtin_cpu_supports("sse4.2"));
    TEST(avx2, __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"));
    TEST(aes, __builtin_cpu_supports("aes") && __builtin_cpu_supports("pclmul"));
    TEST(bmi, __builtin_cpu_supports("bmi2"));
    uint32_t eax = 7, ebx, ecx = 0, edx;
    __asm__("cpuid" : "+a"(eax), "=b"(ebx), "+c"(ecx), "=d"(edx));
    TEST(sha, ebx >> 29 & 1);
}
