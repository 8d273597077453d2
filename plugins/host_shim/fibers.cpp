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

#include "cuda_on_host.h"

extern "C" char __start_glip_shared[] __attribute__((visibility("hidden")));
extern "C" char __stop_glip_shared[] __attribute__((visibility("hidden")));

namespace glip_host {

uint3 thread_index, block_index, block_size, grid_size;

namespace {

constexpr std::size_t kStackBytes = 64 << 10;
constexpr int kUndefined = 0xa5;

enum class State { kFresh, kWaiting, kFinished };

struct Fiber {
    State state = State::kFresh;
    bool started = false;
    uint3 index{};
    ucontext_t start{};
    jmp_buf place{};
    std::unique_ptr<char[]> stack;
    void* kept = nullptr;  // AddressSanitizer's own, while another fiber runs
};

jmp_buf scheduler;
Fiber* current = nullptr;
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
        fiber.stack.reset(new char[kStackBytes]);
        getcontext(&fiber.start);
        fiber.start.uc_stack.ss_sp = fiber.stack.get();
        fiber.start.uc_stack.ss_size = kStackBytes;
        makecontext(&fiber.start, fiber_main, 0);
    }
    return fibers;
}

// One block, from barrier to barrier.
Outcome run_block(std::vector<Fiber>& fibers, std::vector<std::size_t>& turns, unsigned order, std::mt19937& random) {
    std::memset(__start_glip_shared, kUndefined, static_cast<std::size_t>(__stop_glip_shared - __start_glip_shared));
    for (;;) {
        if (order > 1) std::shuffle(turns.begin(), turns.end(), random);
        for (const std::size_t turn : turns) resume(fibers[turn]);
        const auto finished = static_cast<std::size_t>(std::count_if(
            fibers.begin(), fibers.end(), [](const Fiber& fiber) { return fiber.state == State::kFinished; }));
        if (finished == fibers.size()) return Outcome::kDone;
        if (finished != 0) return Outcome::kBarrierMissed;
    }
}

}  // namespace

void barrier() { yield_as(State::kWaiting); }

Outcome run(const uint3& grid, const uint3& block, unsigned order, const std::function<void()>& thread) {
    std::vector<Fiber> fibers = make_fibers(block);
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
