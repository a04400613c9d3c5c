// What kernels share: logits of every type of floats, read several at a time, and sums over a block.
//
// Defined from outside: THREADS, a power of two and at least 32; TYPE, of the logits, 0 for single precision, 1 for half,
// 2 for bfloat16; PER, how many lie in what a thread reads at once, which rows must be aligned to.

typedef unsigned int u32;
typedef unsigned long long u64;
typedef long long i64;

#ifdef __CUDACC_RTC__
__device__ inline float half_as_float(unsigned short z) {
    float single;
    asm("cvt.f32.f16 %0, %1;" : "=f"(single) : "h"(z));
    return single;
}

// Two units in the last place off at most; what is below the normal numbers is 0.
__device__ inline float power_of_two(float x) {
    float power;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(power) : "f"(x));
    return power;
}
#endif

#define INFINITE __int_as_float(0x7f800000)
#define LOG2_E 1.4426950408889634

#if TYPE == 0
typedef float Element;
__device__ inline float single(float z) { return z; }
#elif TYPE == 1
typedef unsigned short Element;
__device__ inline float single(unsigned short z) { return half_as_float(z); }
#else
typedef unsigned short Element;
__device__ inline float single(unsigned short z) { return __int_as_float((int)((u32)z << 16)); }
#endif

struct __align__(PER * sizeof(Element)) Vector {
#if TYPE == 0 || PER == 1
    Element of[PER];

    __device__ float at(int e) const { return single(of[e]); }
#else
    // Two numbers each, the first in the lower half.
    u32 of[PER / 2];

    __device__ float at(int e) const {
        const u32 both = of[e / 2];
#if TYPE == 2
        return __int_as_float((int)(e % 2 == 0 ? both << 16 : both & 0xffff0000u));
#else
        return single((unsigned short)(e % 2 == 0 ? both : both >> 16));
#endif
    }
#endif
};

struct __align__(PER % 4 == 0 ? 16 : 4) Floats {
    float of[PER];
};

__device__ inline void load(const Element *from, Vector &vector) { vector = *reinterpret_cast<const Vector *>(from); }

__device__ inline void load(const Element *from, float (&z)[PER]) {
    Vector vector;
    load(from, vector);
#pragma unroll
    for (int e = 0; e < PER; e++) z[e] = vector.at(e);
}

__device__ inline void load(const float *from, Floats &floats) {
    floats = *reinterpret_cast<const Floats *>(from);
}

struct Sum {
    __device__ static float of(float a, float b) { return a + b; }
};

struct Largest {
    __device__ static float of(float a, float b) { return fmaxf(a, b); }
};

// `values` of all threads put together, each on its own, and known to all. `part` holds N * THREADS / 32 numbers, which
// nobody reads or writes any more.
template <typename Of, int N> __device__ inline void all(float (&values)[N], float *part) {
    const int t = threadIdx.x;
#pragma unroll
    for (int n = 0; n < N; n++) {
#pragma unroll
        for (int far = 16; far > 0; far /= 2) {
            values[n] = Of::of(values[n], __shfl_xor_sync(0xffffffffu, values[n], far));
        }
        if (t % 32 == 0) part[n * (THREADS / 32) + t / 32] = values[n];
    }
    __syncthreads();
#pragma unroll
    for (int n = 0; n < N; n++) {
        float found = part[n * (THREADS / 32)];
#pragma unroll
        for (int warp = 1; warp < THREADS / 32; warp++) found = Of::of(found, part[n * (THREADS / 32) + warp]);
        values[n] = found;
    }
    __syncthreads();
}
