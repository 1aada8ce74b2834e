// A libcuda without a GPU: the calls that tenfour makes, as "CUDA Driver API" describes them, over memory of the processor. Kernels are
// those of src/kernel/code.cu, compiled by the C++ compiler. It is stricter than a driver: an address that no allocation covers, a free
// of what is not allocated, or a call without a context ends the process, so that the test fails.
//
// What it cannot show is how a real driver behaves in time: all is done when a call returns, and an event says so at the second look.

#include "../../src/kernel/on_host.cpp"

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <mutex>
#include <string>

enum { SUCCESS = 0, INVALID_VALUE = 1, UNSUPPORTED_PTX = 222, NOT_FOUND = 500, NOT_READY = 600 };
enum { DEVICE = 1, PINNED = 2, REGISTERED = 3 };

typedef int Result;
typedef uint64_t Address;
struct Range { size_t bytes; int kind; };
struct Event { int looks; };

static std::mutex lock;
static std::map<Address, Range> ranges;
static thread_local void *current = nullptr;
static int device_context;

static void stop(const char *what) {
    fprintf(stderr, "the driver of the test: %s\n", what);
    abort();
}

static void need_context() {
    if (!current) stop("a call without a context");
}

static bool is_covered(Address start, size_t bytes, int kind) {
    std::lock_guard<std::mutex> held(lock);
    auto after = ranges.upper_bound(start);
    if (after == ranges.begin()) return false;
    auto range = std::prev(after);
    return range->second.kind == kind && start - range->first + bytes <= range->second.bytes;
}

static void need(Address start, size_t bytes, int kind, const char *what) {
    if (!is_covered(start, bytes, kind)) stop(what);
}

static Result add(void *start, size_t bytes, int kind) {
    std::lock_guard<std::mutex> held(lock);
    ranges[(Address)start] = {bytes, kind};
    return SUCCESS;
}

static Result take(Address start, int kind) {
    std::lock_guard<std::mutex> held(lock);
    auto range = ranges.find(start);
    if (range == ranges.end() || range->second.kind != kind) stop("a free of what is not allocated");
    ranges.erase(range);
    return SUCCESS;
}

static void *memory(size_t bytes) {
    void *start = aligned_alloc(256, (bytes + 255) / 256 * 256);
    if (start) memset(start, 0xcd, bytes);
    return start;
}

extern "C" {

Result cuInit(unsigned) { return SUCCESS; }
Result cuGetErrorName(Result, const char **name) { return *name = "AN_ERROR", SUCCESS; }
Result cuGetErrorString(Result, const char **text) { return *text = "an error of the test's driver", SUCCESS; }
Result cuDriverGetVersion(int *version) { return *version = 12010, SUCCESS; }
Result cuDeviceGetCount(int *count) { return *count = 1, SUCCESS; }
Result cuDeviceGet(int *device, int ordinal) { return *device = ordinal, ordinal == 0 ? SUCCESS : INVALID_VALUE; }
Result cuDeviceGetName(char *name, int length, int) { return snprintf(name, length, "no device"), SUCCESS; }
Result cuDeviceGetAttribute(int *value, int attribute, int) { return *value = attribute == 75 ? 9 : 0, SUCCESS; }
Result cuDeviceTotalMem_v2(size_t *bytes, int) { return *bytes = (size_t)1 << 30, SUCCESS; }

Result cuDevicePrimaryCtxRetain(void **context, int) { return *context = &device_context, SUCCESS; }
Result cuDevicePrimaryCtxRelease_v2(int) { return SUCCESS; }
Result cuCtxSetCurrent(void *context) { return current = context, SUCCESS; }

Result cuModuleLoadData(void **module, const void *image) {
    need_context();
    if (getenv("TENFOUR_TEST_OLD_DRIVER")) return UNSUPPORTED_PTX;
    std::string text((const char *)image);
    if (text.find(".version 8.1") == std::string::npos) return INVALID_VALUE;
    return *module = new std::string(text), SUCCESS;
}
Result cuModuleGetFunction(void **function, void *module, const char *name) {
    if (((std::string *)module)->find(std::string(".entry ") + name + "(") == std::string::npos) return NOT_FOUND;
    return *function = new std::string(name), SUCCESS;
}
Result cuModuleUnload(void *module) { return delete (std::string *)module, SUCCESS; }

Result cuStreamCreate(void **stream, unsigned) { return need_context(), *stream = malloc(1), SUCCESS; }
Result cuStreamDestroy_v2(void *stream) { return free(stream), SUCCESS; }
Result cuEventCreate(void **event, unsigned) { return need_context(), *event = new Event{0}, SUCCESS; }
Result cuEventDestroy_v2(void *event) { return delete (Event *)event, SUCCESS; }
Result cuEventRecord(void *event, void *) { return ((Event *)event)->looks = 0, SUCCESS; }
Result cuEventQuery(void *event) { return ((Event *)event)->looks++ ? SUCCESS : NOT_READY; }

Result cuMemAlloc_v2(Address *start, size_t bytes) {
    need_context();
    return *start = (Address)memory(bytes), add((void *)*start, bytes, DEVICE);
}
Result cuMemFree_v2(Address start) { return need_context(), take(start, DEVICE), free((void *)start), SUCCESS; }
Result cuMemHostAlloc(void **start, size_t bytes, unsigned) {
    need_context();
    return *start = memory(bytes), add(*start, bytes, PINNED);
}
Result cuMemFreeHost(void *start) { return need_context(), take((Address)start, PINNED), free(start), SUCCESS; }
Result cuMemHostRegister_v2(void *start, size_t bytes, unsigned) { return need_context(), add(start, bytes, REGISTERED); }
Result cuMemHostUnregister(void *start) { return need_context(), take((Address)start, REGISTERED); }

Result cuMemcpyHtoDAsync_v2(Address to, const void *from, size_t bytes, void *) {
    need_context();
    need(to, bytes, DEVICE, "a copy to what is not the device's");
    return memcpy((void *)to, from, bytes), SUCCESS;
}
Result cuMemcpyDtoHAsync_v2(void *to, Address from, size_t bytes, void *) {
    need_context();
    need(from, bytes, DEVICE, "a copy from what is not the device's");
    need((Address)to, bytes, PINNED, "a copy to what is not pinned");
    return memcpy(to, (void *)from, bytes), SUCCESS;
}
Result cuMemcpyDtoDAsync_v2(Address to, Address from, size_t bytes, void *) {
    need_context();
    need(from, bytes, DEVICE, "a copy from what is not the device's");
    need(to, bytes, DEVICE, "a copy to what is not the device's");
    return memcpy((void *)to, (void *)from, bytes), SUCCESS;
}

Result cuLaunchKernel(void *function, unsigned blocks, unsigned stripes, unsigned depth, unsigned threads, unsigned, unsigned,
                      unsigned, void *, void **parameters, void **) {
    need_context();
    if (!blocks || !stripes || stripes > STRIPES_MAX || depth != 1 || threads != THREADS) return INVALID_VALUE;
    const Batch *batch = (const Batch *)parameters[0];
    for (unsigned number = 0; number < stripes; number++) {
        const Stripe &stripe = batch->stripes[number];
        if (stripe.vectors > (unsigned long long)blocks * THREADS) stop("a grid that is too small");
        for (const uint4 *shard : stripe.shards)
            if (shard) need((Address)shard, stripe.vectors * sizeof(uint4), DEVICE, "a shard that is not the device's");
    }
    const std::string &name = *(const std::string *)function;
    if (name == "encode") encode_on_host(blocks, stripes, batch, nullptr);
    else if (name == "product1") product1_on_host(blocks, stripes, batch, (const Product<1> *)parameters[1]);
    else if (name == "product2") product2_on_host(blocks, stripes, batch, (const Product<2> *)parameters[1]);
    else if (name == "syndrome3") syndrome3_on_host(blocks, stripes, batch, (const Syndrome<3> *)parameters[1]);
    else if (name == "syndrome4") syndrome4_on_host(blocks, stripes, batch, (const Syndrome<4> *)parameters[1]);
    else return NOT_FOUND;
    return SUCCESS;
}

}
