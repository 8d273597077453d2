// Launches the CUDA kernels on the host shim as a file of recorded launches has them, and compares: for sanitizers.
//
//   host_cases FILE          every launch; 1 if one differs
//   host_cases FILE FAULT    a fault on purpose, which a sanitizer must find: freed, short

#include <memory>

#include "case_file.hpp"

extern "C" int glip_host_launch(const char*, const unsigned*, const unsigned*, std::size_t, void* const*, unsigned);

namespace {

struct Free {
    void operator()(char* data) const { std::free(data); }
};

// Memory of a kernel: it begins as far behind a multiple of 64 bytes as it was recorded, and ends where its values do.
struct Memory {
    Memory(std::int64_t shift, std::vector<char> before, std::vector<char> after, std::size_t missing)
        : expected(std::move(after)) {
        const std::size_t bytes = before.size() - missing;
        void* made = nullptr;
        if (posix_memalign(&made, 64, std::size_t(shift) + bytes + (shift + bytes == 0))) CaseFile::fail("no memory");
        block.reset(static_cast<char*>(made));
        address = block.get() + shift;
        if (bytes) std::memcpy(address, before.data(), bytes);
    }
    bool is_right() const { return expected.empty() || std::memcmp(address, expected.data(), expected.size()) == 0; }
    std::unique_ptr<char, Free> block;
    char* address;
    std::vector<char> expected;
};

}  // namespace

int main(int count, char** words) {
    if (count < 2) CaseFile::fail("host_cases FILE [FAULT]");
    const std::string fault = count > 2 ? words[2] : "";
    CaseFile file(words[1]);
    int launches = 0, wrong = 0;
    for (; !file.at_end(); ++launches) {
        const std::string kernel = file.word();
        const auto grid = file.values<unsigned>(), block = file.values<unsigned>();
        // The order of the threads, the bytes of shared memory, the number of arguments.
        const auto numbers = file.values<std::int64_t>();
        std::vector<Memory> memories;
        std::vector<std::vector<char>> values;
        for (std::int64_t i = 0; i < numbers[2]; ++i) {
            if (file.word() == "memory") {
                const std::int64_t shift = file.values<std::int64_t>().at(0);
                auto before = file.values<char>(), after = file.values<char>();
                // What a kernel writes is planted short: of the shim's fibers, one must be told of.
                const bool is_written = !before.empty() && before != after;
                memories.emplace_back(shift, before, after, fault == "short" && is_written ? 4 : 0);
                values.emplace_back(sizeof(char*));
                std::memcpy(values.back().data(), &memories.back().address, sizeof(char*));
            } else {
                values.push_back(file.values<char>());
            }
        }
        if (fault == "freed") memories[0].block.reset();
        std::vector<void*> arguments;
        for (auto& value : values) arguments.push_back(value.data());
        bool right = glip_host_launch(kernel.c_str(), grid.data(), block.data(), std::size_t(numbers[1]),
                                      arguments.data(), unsigned(numbers[0])) == 0;
        for (const Memory& memory : memories) right = right && memory.is_right();
        if (!right) std::fprintf(stderr, "launch %d, %s, differs\n", launches, kernel.c_str()), ++wrong;
    }
    std::printf("%d launches: %d wrong\n", launches, wrong);
    return wrong != 0;
}
