// Cases as tests/sanitized/case_file.py writes them: one stream of records, little-endian, each value after its length.

#pragma once

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

// What a case is made of. Every array has an allocation of its own, of its very size: a read beyond it is seen.
class CaseFile {
public:
    explicit CaseFile(const char* path) : file_(std::fopen(path, "rb")) {
        if (file_ == nullptr) fail("the file of cases cannot be opened");
    }
    CaseFile(const CaseFile&) = delete;
    ~CaseFile() { std::fclose(file_); }

    bool at_end() {
        const int next = std::fgetc(file_);
        if (next != EOF) std::ungetc(next, file_);
        return next == EOF;
    }

    std::string word() {
        const auto bytes = values<char>();
        return {bytes.begin(), bytes.end()};
    }

    template <typename T>
    std::vector<T> values() {
        std::int64_t count = 0;
        read(&count, sizeof count);
        std::vector<T> found(static_cast<std::size_t>(count));
        read(found.data(), found.size() * sizeof(T));
        return found;
    }

    static void fail(const char* why) {
        std::fprintf(stderr, "%s\n", why);
        std::exit(2);
    }

private:
    void read(void* to, std::size_t bytes) {
        if (bytes != 0 && std::fread(to, 1, bytes, file_) != bytes) fail("the file of cases ends too soon");
    }

    std::FILE* file_;
};
