// The threads of a block as fibers. ucontext starts one, _setjmp and _longjmp switch: they save no signal mask, which
// would be a system call a switch.

#include <setjmp.h>
#include <ucontext.h>

#include <algorithm>
#include <memory>
#include <numeric>
#include <random>
#include <vector>

#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/common_interface_defs.h>
#endif

#include "cuda_fp16.h"

extern "C" char __start_glip_shared[] __attribute__((visibility("hidden")));
extern "C" char __stop_glip_shared[] __attribute__((visibility("hidden")));

namespace glip_host {

uint3 thread_index, block_index, block_size, grid_size;

namespace {

constexpr std::size_t kStackBytes = 64 << 10;
constexpr int kUndefined = 0xa5;
constexpr std::size_t kWarp = 32;

enum class State { kFresh, kRunning, kAtBarrier, kInWarp, kFinished };

struct Copy {
    void* to;
    const void* from;
    std::size_t bytes;
};

struct Fiber {
    State state = State::kFresh;
    bool started = false;
    uint3 index{};
    unsigned lane = 0, meetings = 0;  // of its warp, in this block
    std::vector<Copy> copies;
    ucontext_t start{};
    jmp_buf place{};
    std::unique_ptr<char[]> stack;
    void* kept = nullptr;  // AddressSanitizer's own, while another fiber runs
};

// What the lanes of a warp show each other. Two take turns: no lane is at the next but one before all have read.
struct Meeting {
    float a[kWarp][8], b[kWarp][4], value[kWarp];
    const void* row[kWarp];
};

jmp_buf scheduler;
Fiber* current = nullptr;
std::vector<Meeting> meetings;
std::vector<unsigned char> dynamic_memory;
const std::function<void()>* body = nullptr;

// AddressSanitizer is told before a switch which stack is next, and after it that it has come.
#ifdef __SANITIZE_ADDRESS__
const void* scheduler_stack = nullptr;
std::size_t scheduler_bytes = 0;
void* scheduler_kept = nullptr;

void leave_scheduler(const Fiber& next) {
    __sanitizer_start_switch_fiber(&scheduler_kept, next.stack.get(), kStackBytes);
}
void enter_scheduler() { __sanitizer_finish_switch_fiber(scheduler_kept, nullptr, nullptr); }
void leave_fiber(Fiber& fiber) {
    __sanitizer_start_switch_fiber(&fiber.kept, scheduler_stack, scheduler_bytes);
}
void enter_fiber(const Fiber& fiber) {
    __sanitizer_finish_switch_fiber(fiber.kept, &scheduler_stack, &scheduler_bytes);
}
#else
void leave_scheduler(const Fiber&) {}
void enter_scheduler() {}
void leave_fiber(Fiber&) {}
void enter_fiber(const Fiber&) {}
#endif

void yield_as(State state) {
    Fiber* self = current;
    self->state = state;
    leave_fiber(*self);
    if (_setjmp(self->place) == 0) _longjmp(scheduler, 1);
    enter_fiber(*self);
}

void fiber_main() {
    enter_fiber(*current);
    for (;;) {  // one turn a block
        (*body)();
        yield_as(State::kFinished);
    }
}

void resume(Fiber& fiber) {
    current = &fiber;
    thread_index = fiber.index;
    leave_scheduler(fiber);
    if (_setjmp(scheduler) != 0) {
        enter_scheduler();
        return;
    }
    if (fiber.started) _longjmp(fiber.place, 1);
    fiber.started = true;
    setcontext(&fiber.start);
}

std::vector<Fiber> make_fibers(const uint3& block) {
    std::vector<Fiber> fibers(static_cast<std::size_t>(block.x) * block.y * block.z);
    for (std::size_t i = 0; i < fibers.size(); ++i) {
        Fiber& fiber = fibers[i];
        const auto flat = static_cast<unsigned>(i);
        fiber.index = {flat % block.x, flat / block.x % block.y, flat / block.x / block.y};
        fiber.lane = flat % kWarp;
        fiber.stack.reset(new char[kStackBytes]);
        getcontext(&fiber.start);
        fiber.start.uc_stack.ss_sp = fiber.stack.get();
        fiber.start.uc_stack.ss_size = kStackBytes;
        makecontext(&fiber.start, fiber_main, 0);
    }
    return fibers;
}

// Fibers that all wait in the same way go on. False if there are none.
bool release(std::vector<Fiber>& fibers, std::size_t first, std::size_t count, State waiting) {
    const auto begin = fibers.begin() + static_cast<std::ptrdiff_t>(first);
    const auto end = begin + static_cast<std::ptrdiff_t>(count);
    if (!std::all_of(begin, end, [waiting](const Fiber& fiber) { return fiber.state == waiting; })) return false;
    std::for_each(begin, end, [](Fiber& fiber) { fiber.state = State::kRunning; });
    return true;
}

// One block, from barrier to barrier, of the block or of a warp.
Outcome run_block(std::vector<Fiber>& fibers, std::vector<std::size_t>& turns, unsigned order, std::mt19937& random) {
    std::memset(__start_glip_shared, kUndefined, static_cast<std::size_t>(__stop_glip_shared - __start_glip_shared));
    std::fill(dynamic_memory.begin(), dynamic_memory.end(), static_cast<unsigned char>(kUndefined));
    for (Fiber& fiber : fibers) fiber.state = State::kRunning, fiber.meetings = 0, fiber.copies.clear();
    for (;;) {
        if (order > 1) std::shuffle(turns.begin(), turns.end(), random);
        for (const std::size_t turn : turns) {
            if (fibers[turn].state == State::kRunning) resume(fibers[turn]);
        }
        bool goes_on = release(fibers, 0, fibers.size(), State::kAtBarrier);
        for (std::size_t first = 0; first < fibers.size(); first += kWarp) {
            goes_on |= release(fibers, first, std::min(kWarp, fibers.size() - first), State::kInWarp);
        }
        if (goes_on) continue;
        const bool done = std::all_of(fibers.begin(), fibers.end(),
                                      [](const Fiber& fiber) { return fiber.state == State::kFinished; });
        return done ? Outcome::kDone : Outcome::kBarrierMissed;
    }
}

// The place where the warp's lanes now meet, after this lane has shown what it has.
template <typename Show>
const Meeting& meet(const Show& show) {
    Fiber* const self = current;
    const std::size_t flat = (thread_index.z * block_size.y + thread_index.y) * block_size.x + thread_index.x;
    Meeting& meeting = meetings[flat / kWarp * 2 + self->meetings++ % 2];
    show(meeting, self->lane);
    yield_as(State::kInWarp);
    return meeting;
}

void unpack(unsigned word, float* halves) {
    halves[0] = __half2float({static_cast<std::uint16_t>(word & 0xffffu)});
    halves[1] = __half2float({static_cast<std::uint16_t>(word >> 16)});
}

}  // namespace

void barrier() { yield_as(State::kAtBarrier); }

unsigned char* dynamic_shared() { return dynamic_memory.data(); }

void copy_later(void* shared, const void* global, std::size_t bytes) {
    current->copies.push_back({shared, global, bytes});
}

void finish_copies() {
    for (const Copy& copy : current->copies) std::memcpy(copy.to, copy.from, copy.bytes);
    current->copies.clear();
}

float from_lane(float value, int lane) {
    return meet([value](Meeting& meeting, unsigned own) { meeting.value[own] = value; }).value[lane];
}

float exchange(float value, int lane_bits) {
    return from_lane(value, static_cast<int>(current->lane) ^ lane_bits);
}

void load_matrices(unsigned (&pairs)[4], const void* row) {
    const unsigned lane = current->lane;
    const Meeting& meeting = meet([row](Meeting& shown, unsigned own) { shown.row[own] = row; });
    for (unsigned i = 0; i < 4; ++i) {
        const auto* const from = static_cast<const unsigned char*>(meeting.row[8 * i + lane / 4]);
        std::memcpy(&pairs[i], from + lane % 4 * sizeof(unsigned), sizeof(unsigned));
    }
}

void load_transposed(unsigned (&pairs)[4], const void* row) {
    const unsigned lane = current->lane;
    const Meeting& meeting = meet([row](Meeting& shown, unsigned own) { shown.row[own] = row; });
    for (unsigned i = 0; i < 4; ++i) {
        std::uint16_t pair[2];
        for (unsigned n = 0; n < 2; ++n) {
            const auto* const from = static_cast<const unsigned char*>(meeting.row[8 * i + lane % 4 * 2 + n]);
            std::memcpy(&pair[n], from + lane / 4 * sizeof(pair[n]), sizeof(pair[n]));
        }
        std::memcpy(&pairs[i], pair, sizeof(pairs[i]));
    }
}

void multiply_tile(float (&sums)[4], const unsigned (&a)[4], const unsigned (&b)[2]) {
    const unsigned row = current->lane / 4, column = current->lane % 4 * 2;
    const Meeting& meeting = meet([&](Meeting& shown, unsigned lane) {
        for (int i = 0; i < 4; ++i) unpack(a[i], shown.a[lane] + 2 * i);
        for (int i = 0; i < 2; ++i) unpack(b[i], shown.b[lane] + 2 * i);
    });
    for (unsigned t = 0; t < 4; ++t) {
        const float* const left = meeting.a[row * 4 + t];
        for (unsigned n = 0; n < 2; ++n) {
            const float* const right = meeting.b[(column + n) * 4 + t];
            for (int pair = 0; pair < 2; ++pair) {    // rows g and g + 8 stand in words 0 and 2, 1 and 3
                for (int i = 0; i < 2; ++i) {
                    sums[2 * pair + n] += left[2 * pair + i] * right[i];
                    sums[2 * pair + n] += left[4 + 2 * pair + i] * right[2 + i];
                }
            }
        }
    }
}

Outcome run(const uint3& grid, const uint3& block, std::size_t shared_bytes, unsigned order,
            const std::function<void()>& thread) {
    std::vector<Fiber> fibers = make_fibers(block);
    meetings.assign(2 * (fibers.size() + kWarp - 1) / kWarp + 2, {});
    dynamic_memory = std::vector<unsigned char>(shared_bytes);  // of this size exactly: a sanitizer sees its end
    std::vector<std::size_t> turns(fibers.size());
    std::iota(turns.begin(), turns.end(), std::size_t{0});
    if (order == 1) std::reverse(turns.begin(), turns.end());
    std::mt19937 random(order);
    body = &thread;
    block_size = block;
    grid_size = grid;
    for (unsigned z = 0; z < grid.z; ++z) {
        for (unsigned y = 0; y < grid.y; ++y) {
            for (unsigned x = 0; x < grid.x; ++x) {
                block_index = {x, y, z};
                const Outcome outcome = run_block(fibers, turns, order, random);
                if (outcome != Outcome::kDone) return outcome;
            }
        }
    }
    return Outcome::kDone;
}

}  // namespace glip_host
