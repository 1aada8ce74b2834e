// The 10+4 code on CUDA: four field elements in a 32-bit word, 16 bytes of each shard a thread.
//
// GF(2^8) modulo 0x11d. The encoder is the ten-multiplication form that erasure/src/kernel/generic.rs explains; the constants are
// powers of two and their sums, so a product is a few doublings, and each doubling takes one addend for nothing (Horner). Rebuilding
// takes coefficients of the host's: a mask of ones for each of their bits, in the kernel's parameters, where an instruction reads
// them as an operand.
//
// Not here: checksums, shared memory, any word between threads. Every byte is read once and written once, around the caches.
//
// Invariant: also a C++ compiler takes this file (on_host.cpp), and what it makes of it computes the same bytes.

#define DATA_SHARDS 10
#define PARITY_SHARDS 4
#define TOTAL_SHARDS 14
#define STRIPES_MAX 24
#define THREADS 256
#define WORDS 4

typedef unsigned int word;

// Device addresses of a stripe's shards, and their length in vectors of 16 bytes. What no kernel touches is null.
struct Stripe {
    uint4 *shards[TOTAL_SHARDS];
    unsigned long long vectors;
};

struct Batch {
    Stripe stripes[STRIPES_MAX];
};

// Wanted shards over the ten that they are computed from: masks[row][bit][source] is all ones where that bit of the coefficient is.
template <int ROWS> struct Product {
    word masks[ROWS][8][DATA_SHARDS];
    int sources[DATA_SHARDS];
    int wanted[ROWS];
};

// Wanted shards over the four syndromes. Bit i of `used` says that shard i is read; lost data counts as zeros.
template <int ROWS> struct Syndrome {
    word masks[ROWS][8][PARITY_SHARDS];
    int wanted[ROWS];
    word used;
};

// All ones in each byte whose highest bit is set.
static __device__ __forceinline__ word spread_high_bits(word x) {
#ifdef TENFOUR_ON_HOST
    return ((x >> 7) & 0x01010101u) * 0xffu;
#else
    word mask;
    asm("prmt.b32 %0, %1, 0, 0xba98;" : "=r"(mask) : "r"(x));
    return mask;
#endif
}

// 2·x + y in each byte.
static __device__ __forceinline__ word twice_plus(word x, word y) {
    return ((x << 1) & 0xfefefefeu) ^ ((spread_high_bits(x) & 0x1d1d1d1du) ^ y);
}

static __device__ __forceinline__ word twice(word x) { return twice_plus(x, 0); }

// From five pairs the two that are missing: 22·q and 104·q share their doublings.
static __device__ __forceinline__ void fold(const word x[5], word &fifth, word &sixth) {
    const word q = x[0] ^ x[1] ^ x[2] ^ x[3];
    const word q2 = twice(q), q4 = twice(q2), q8 = twice(q4), q16 = twice(q8), q32 = twice(q16), q64 = twice(q32);
    fifth = x[4] ^ x[0] ^ x[1] ^ q2 ^ q4 ^ q16;
    sixth = x[0] ^ x[2] ^ x[4] ^ q8 ^ q32 ^ q64;
}

static __device__ __forceinline__ void parity_of(const word d[DATA_SHARDS], word parity[PARITY_SHARDS]) {
    const word a[5] = {d[0] ^ d[1], d[2] ^ d[3], d[4] ^ d[5], d[6] ^ d[7], d[8] ^ d[9]};
    const word b[5] = {
        d[1],
        twice_plus(a[1], d[3]),
        twice_plus(twice(a[2]), d[5]),
        twice_plus(twice_plus(a[3], a[3]), d[7]),
        twice_plus(twice(twice(a[4])), d[9]),
    };
    word a5, a6, b5, b6;
    fold(a, a5, a6);
    fold(b, b5, b6);
    const word e5 = twice_plus(twice_plus(twice(a5), a5), b5);
    const word e6 = twice_plus(twice(twice_plus(a6, a6)), b6);
    parity[0] = a5 ^ e5;
    parity[1] = e5;
    parity[2] = a6 ^ e6;
    parity[3] = e6;
}

static __device__ __forceinline__ unsigned long long own_vector() {
    return (unsigned long long)blockIdx.x * THREADS + threadIdx.x;
}

static __device__ __forceinline__ void load(word words[WORDS], const uint4 *from) {
    const uint4 vector = __ldcs(from);
    words[0] = vector.x, words[1] = vector.y, words[2] = vector.z, words[3] = vector.w;
}

static __device__ __forceinline__ void store(uint4 *to, const word words[WORDS]) {
    const uint4 vector = {words[0], words[1], words[2], words[3]};
    __stcs(to, vector);
}

// Parity from data.
extern "C" __global__ void __launch_bounds__(THREADS) encode(const __grid_constant__ Batch batch) {
    const Stripe &stripe = batch.stripes[blockIdx.y];
    const unsigned long long at = own_vector();
    if (at >= stripe.vectors) return;
    word data[DATA_SHARDS][WORDS], parity[PARITY_SHARDS][WORDS];
#pragma unroll
    for (int shard = 0; shard < DATA_SHARDS; shard++) load(data[shard], stripe.shards[shard] + at);
#pragma unroll
    for (int part = 0; part < WORDS; part++) {
        word column[DATA_SHARDS], sums[PARITY_SHARDS];
#pragma unroll
        for (int shard = 0; shard < DATA_SHARDS; shard++) column[shard] = data[shard][part];
        parity_of(column, sums);
#pragma unroll
        for (int row = 0; row < PARITY_SHARDS; row++) parity[row][part] = sums[row];
    }
#pragma unroll
    for (int row = 0; row < PARITY_SHARDS; row++) store(stripe.shards[DATA_SHARDS + row] + at, parity[row]);
}

// The sum of the terms times their coefficients, bit by bit from the highest.
template <int TERMS>
static __device__ __forceinline__ word combination(const word masks[8][TERMS], const word terms[TERMS]) {
    word sum = 0;
#pragma unroll
    for (int bit = 7; bit >= 0; bit--) {
        word selected = 0;
#pragma unroll
        for (int term = 0; term < TERMS; term++) selected ^= terms[term] & masks[bit][term];
        sum = bit == 7 ? selected : twice_plus(sum, selected);
    }
    return sum;
}

// Up to two lost shards: rows of the inverse, over ten that are there.
template <int ROWS> static __device__ __forceinline__ void product(const Batch &batch, const Product<ROWS> &plan) {
    const Stripe &stripe = batch.stripes[blockIdx.y];
    const unsigned long long at = own_vector();
    if (at >= stripe.vectors) return;
    word sources[DATA_SHARDS][WORDS], results[ROWS][WORDS];
#pragma unroll
    for (int source = 0; source < DATA_SHARDS; source++)
        load(sources[source], stripe.shards[plan.sources[source]] + at);
#pragma unroll
    for (int part = 0; part < WORDS; part++) {
        word column[DATA_SHARDS];
#pragma unroll
        for (int source = 0; source < DATA_SHARDS; source++) column[source] = sources[source][part];
#pragma unroll
        for (int row = 0; row < ROWS; row++) results[row][part] = combination<DATA_SHARDS>(plan.masks[row], column);
    }
#pragma unroll
    for (int row = 0; row < ROWS; row++) store(stripe.shards[plan.wanted[row]] + at, results[row]);
}

// Three or four lost shards: the survivors' parity against the stored one, and a small matrix.
template <int ROWS> static __device__ __forceinline__ void syndrome(const Batch &batch, const Syndrome<ROWS> &plan) {
    const Stripe &stripe = batch.stripes[blockIdx.y];
    const unsigned long long at = own_vector();
    if (at >= stripe.vectors) return;
    word shards[TOTAL_SHARDS][WORDS] = {}, results[ROWS][WORDS];
#pragma unroll
    for (int shard = 0; shard < TOTAL_SHARDS; shard++)
        if (plan.used >> shard & 1) load(shards[shard], stripe.shards[shard] + at);
#pragma unroll
    for (int part = 0; part < WORDS; part++) {
        word column[DATA_SHARDS], syndromes[PARITY_SHARDS];
#pragma unroll
        for (int shard = 0; shard < DATA_SHARDS; shard++) column[shard] = shards[shard][part];
        parity_of(column, syndromes);
#pragma unroll
        for (int row = 0; row < PARITY_SHARDS; row++) syndromes[row] ^= shards[DATA_SHARDS + row][part];
#pragma unroll
        for (int row = 0; row < ROWS; row++)
            results[row][part] = combination<PARITY_SHARDS>(plan.masks[row], syndromes);
    }
#pragma unroll
    for (int row = 0; row < ROWS; row++) store(stripe.shards[plan.wanted[row]] + at, results[row]);
}

extern "C" __global__ void __launch_bounds__(THREADS)
product1(const __grid_constant__ Batch batch, const __grid_constant__ Product<1> plan) { product<1>(batch, plan); }
extern "C" __global__ void __launch_bounds__(THREADS)
product2(const __grid_constant__ Batch batch, const __grid_constant__ Product<2> plan) { product<2>(batch, plan); }
extern "C" __global__ void __launch_bounds__(THREADS)
syndrome3(const __grid_constant__ Batch batch, const __grid_constant__ Syndrome<3> plan) { syndrome<3>(batch, plan); }
extern "C" __global__ void __launch_bounds__(THREADS)
syndrome4(const __grid_constant__ Batch batch, const __grid_constant__ Syndrome<4> plan) { syndrome<4>(batch, plan); }
