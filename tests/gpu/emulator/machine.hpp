// The GPUs that are emulated, as the environment describes them; both libraries read it.
#pragma once
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

namespace machine {

inline unsigned long long number(const char *name, unsigned long long otherwise) {
    const char *value = getenv(name);
    return value ? strtoull(value, nullptr, 10) : otherwise;
}
// How many GPUs there are, whatever a process may see of them.
inline int count() { return (int)number("EMULATED_GPUS", 1); }
// Bytes of memory of each.
inline unsigned long long memory() { return number("EMULATED_MEMORY", 8ull << 30); }
inline std::string uuid(int gpu) {
    char text[48];
    snprintf(text, sizeof text, "GPU-00000000-0000-0000-0000-%012d", gpu);
    return text;
}
// Those that CUDA_VISIBLE_DEVICES leaves, in its order.
inline std::vector<int> visible() {
    std::vector<int> found;
    const char *setting = getenv("CUDA_VISIBLE_DEVICES");
    if (!setting) {
        for (int gpu = 0; gpu < count(); gpu++) found.push_back(gpu);
        return found;
    }
    std::string word;
    for (const char *c = setting;; c++) {
        if (*c && *c != ',') {
            word += *c;
            continue;
        }
        int known = -1;
        for (int gpu = 0; gpu < count(); gpu++)
            if (word == std::to_string(gpu) || (word.size() > 4 && uuid(gpu).compare(0, word.size(), word) == 0)) known = gpu;
        if (known < 0) return found; // as CUDA does: those behind an invalid one are not seen
        found.push_back(known);
        word.clear();
        if (!*c) return found;
    }
}

} // namespace machine
