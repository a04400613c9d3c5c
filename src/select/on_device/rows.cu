// Head and tail sums of rows of logits, each read once, and a part of it before: a block for each row.
//
// Defined from outside, beside what numbers.cuh needs: K, classes of a head; TAIL, 1 where there are more; NODES, and POWERS,
// 1 where they are the first one times 1, 2, 4, 6 and 8; NODE_LIST.
//
// What is larger than a bound is kept, all else goes into the sums at once, relative to the bound. Where more is kept than
// there is room for, the bound rises. The first bound is the smallest of the K + TAIL largest of what threads find as their
// largest in a part of the row: as many logits reach it.

#define WANT (K + TAIL)
// Vectors that a thread reads between two looks at how much is kept.
#define ABREAST (8 / PER)
#define TILE (8 * THREADS)
#define ROOM (TILE + WANT + THREADS)
// Tiles that the first bound is of.
#define SAMPLED 4

__device__ static const double NODE[NODES > 0 ? NODES : 1] = {NODE_LIST};

// Larger for a larger logit, and of equal ones for the smaller class. Never 0.
__device__ inline u64 key_of(float z, int id) {
    const u32 bits = (u32)__float_as_int(z);
    const u32 ordered = bits & 0x80000000u ? ~bits : bits | 0x80000000u;
    return (u64)ordered << 32 | (u32)~id;
}

__device__ inline float logit_of(u64 key) {
    const u32 ordered = (u32)(key >> 32);
    return __int_as_float((int)(ordered & 0x80000000u ? ordered & 0x7fffffffu : ~ordered));
}

__device__ inline int id_of(u64 key) { return (int)~(u32)key; }

struct Tail {
    float reference;
    float sums[NODES > 0 ? NODES : 1];

    __device__ void add(float z) {
#if POWERS
        const float e = power_of_two((z - reference) * (float)(NODE[0] * LOG2_E));
        const float e2 = e * e, e4 = e2 * e2;
        sums[0] += e;
        sums[1] += e2;
        sums[2] += e4;
        sums[3] += e4 * e2;
        sums[4] += e4 * e4;
#elif NODES > 0
#pragma unroll
        for (int n = 0; n < NODES; n++) sums[n] += power_of_two((z - reference) * (float)(NODE[n] * LOG2_E));
#endif
    }

    // All sums relative to what is at least as large.
    __device__ void raise(float to) {
#pragma unroll
        for (int n = 0; n < NODES; n++) {
            // Of what is infinite nothing has been added.
            if (sums[n] > 0.0f) sums[n] *= power_of_two((reference - to) * (float)(NODE[n] * LOG2_E));
        }
        reference = to;
    }
};

// Leaves the WANT largest of `kept`, in order; the others are added to `tail`, in order too whatever thread found them, relative
// to the last of those. `kept` and `other` change places.
__device__ inline void leave_the_largest(u64 *&kept, u64 *&other, u32 *count, Tail &tail) {
    const int t = threadIdx.x, n = *count;
    for (int i = t; i < n; i += THREADS) {
        const u64 key = kept[i];
        int before = 0;
        for (int j = 0; j < n; j++) before += kept[j] > key;
        other[before] = key;
    }
    __syncthreads();
    u64 *const were = kept;
    kept = other, other = were;
    tail.raise(logit_of(kept[WANT - 1]));
    for (int i = WANT + t; i < n; i += THREADS) tail.add(logit_of(kept[i]));
    if (t == 0) *count = WANT;
    __syncthreads();
}

// In columns, of 32 bits each: classes of the K largest, in order, [rows, K]; their logits relative to the largest, [rows, K]; the
// logarithms of the sums of exp(node (z - largest)) over all others, [rows, NODES]; the largest, [rows]; how many logits are not
// finite, [rows].
extern "C" __global__ void __launch_bounds__(THREADS)
select_rows(const Element *__restrict__ logits, int rows, int classes, int stride, u32 *__restrict__ out) {
    __shared__ u64 rooms[2][ROOM];
    __shared__ u64 bound;
    __shared__ u32 count;
    __shared__ u32 bad;
    u64 *kept = rooms[0], *other = rooms[1];
    const int t = threadIdx.x;
    const Element *row = logits + (i64)blockIdx.x * stride;
    const int vectors = classes / PER;

    float largest = -INFINITE;
    int found = -1;
    // Tiles from all over the row, which may rise or fall.
    const int tiles = (vectors + ABREAST * THREADS - 1) / (ABREAST * THREADS), sampled = min(SAMPLED, tiles);
    for (int sample = 0; sample < sampled; sample++) {
        const int first = (int)((i64)sample * tiles / sampled) * ABREAST * THREADS + t;
#pragma unroll
        for (int a = 0; a < ABREAST; a++) {
            const int v = first + a * THREADS;
            if (v >= vectors) continue;
            float z[PER];
            load(row + (i64)v * PER, z);
#pragma unroll
            for (int e = 0; e < PER; e++) {
                if (z[e] > largest) largest = z[e], found = v * PER + e;
            }
        }
    }
    // Of the two zeros neither is the larger.
    const u64 own = found < 0 ? 0 : key_of(largest + 0.0f, found);
    kept[t] = own;
    if (t == 0) bound = 0, count = 0, bad = 0;
    __syncthreads();
    int before = 0;
    for (int j = 0; j < THREADS; j++) before += kept[j] > own;
    if (own != 0 && before == WANT - 1) bound = own;
    __syncthreads();

    u64 limit = bound;
    Tail tail;
    tail.reference = limit == 0 ? -INFINITE : logit_of(limit);
#pragma unroll
    for (int n = 0; n < NODES; n++) tail.sums[n] = 0.0f;
    u32 strange = 0;
    Vector ahead[ABREAST];
#pragma unroll
    for (int a = 0; a < ABREAST; a++) {
        if (t + a * THREADS < vectors) load(row + (i64)(t + a * THREADS) * PER, ahead[a]);
    }
    for (int first = t; first - t < vectors; first += ABREAST * THREADS) {
        float z[ABREAST][PER];
        bool reached = false;
#pragma unroll
        for (int a = 0; a < ABREAST; a++) {
#pragma unroll
            for (int e = 0; e < PER; e++) z[a][e] = single(ahead[a].of[e]);
            const int next = first + (ABREAST + a) * THREADS;
            if (next < vectors) load(row + (i64)next * PER, ahead[a]);
        }
#pragma unroll
        for (int a = 0; a < ABREAST; a++) {
            if (first + a * THREADS >= vectors) continue;
#pragma unroll
            for (int e = 0; e < PER; e++) {
                strange += !(fabsf(z[a][e]) < INFINITE);
                reached |= z[a][e] >= tail.reference;
            }
        }
        bool full = false;
#pragma unroll
        for (int a = 0; a < ABREAST; a++) {
            const int v = first + a * THREADS;
            if (v >= vectors) continue;
#pragma unroll
            for (int e = 0; e < PER; e++) {
                if (reached && z[a][e] >= tail.reference) {
                    const u64 key = key_of(z[a][e] + 0.0f, v * PER + e);
                    if (key >= limit) {
                        const u32 place = atomicAdd(&count, 1u);
                        kept[place] = key;
                        full |= place >= ROOM - TILE;
                        continue;
                    }
                }
                tail.add(z[a][e]);
            }
        }
        if (__syncthreads_or(full)) {
            leave_the_largest(kept, other, &count, tail);
            limit = kept[WANT - 1];
        }
    }
    if (strange > 0) atomicAdd(&bad, strange);
    __syncthreads();
    leave_the_largest(kept, other, &count, tail);

    const i64 at = blockIdx.x;
    const float largest_of_all = logit_of(kept[0]);
    u32 *const ids = out + at * K, *const values = out + (i64)rows * K + at * K;
    for (int i = t; i < K; i += THREADS) {
        ids[i] = (u32)id_of(kept[i]);
        values[i] = (u32)__float_as_int(logit_of(kept[i]) - largest_of_all);
    }
#if NODES > 0
    all<Sum>(tail.sums, reinterpret_cast<float *>(other));
    if (t == 0) {
        const double fall = (double)logit_of(kept[K]) - (double)largest_of_all;
        u32 *const curve = out + (i64)rows * 2 * K + at * NODES;
#pragma unroll
        for (int n = 0; n < NODES; n++) {
            // The largest of the tail itself is in no sum.
            const double sum = (double)(tail.sums[n] + 1.0f);
            curve[n] = (u32)__float_as_int((float)(NODE[n] * fall + log(sum)));
        }
    }
#endif
    if (t == 0) {
        u32 *const rest = out + (i64)rows * (2 * K + NODES) + at;
        rest[0] = (u32)__float_as_int(largest_of_all);
        rest[rows] = bad;
    }
}
