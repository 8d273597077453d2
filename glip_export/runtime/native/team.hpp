// Threads that do one piece of work after the other together: for work so short that starting threads anew for each piece
// would take as long.

#pragma once

#include <atomic>
#include <cstdint>
#include <system_error>
#include <thread>
#include <vector>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace glip {

class Team {
public:
    // work(item, thread) for every item, in no order, on all threads of the team; each of them calls this with the same
    // items, and what was worked at before is done. work throws nothing.
    template <typename Work>
    void share(int thread, int64_t items, const Work& work) {
        for (int64_t item; (item = next_.fetch_add(1)) < items;) work(item, thread);
        const int64_t round = round_.load();
        if (arrived_.fetch_add(1) + 1 == size_.load()) {
            next_ = 0, arrived_ = 0;
            round_ = round + 1;
        } else {
            wait([&] { return round_.load() != round; });
        }
    }

    // member(team, thread) on so many threads, or as many as there are to be had.
    template <typename Member>
    static void run(int threads, const Member& member) {
        Team team;
        std::vector<std::thread> others;
        others.reserve(threads > 0 ? threads : 0);
        try {
            for (int thread = 1; thread < threads; ++thread)
                others.emplace_back([&team, &member, thread] {
                    wait([&] { return team.size_.load() != 0; });
                    member(team, thread);
                });
        } catch (const std::system_error&) {  // the limit on processes, say
        }
        team.size_ = int(others.size()) + 1;
        member(team, 0);
        for (std::thread& other : others) other.join();
    }

private:
    template <typename Done>
    static void wait(const Done& done) {
        for (int turn = 0; !done(); ++turn)
            if (turn < kTurns)
                pause();
            else
                std::this_thread::yield();  // the others may want for this processor
    }
    static void pause() {
#if defined(__x86_64__)
        _mm_pause();
#endif
    }

    static constexpr int kTurns = 2000;  // tens of microseconds
    std::atomic<int64_t> next_{0}, round_{0};
    std::atomic<int> arrived_{0}, size_{0};
};

}  // namespace glip
