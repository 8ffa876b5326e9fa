// PTX text, as LLVM's NVPTX back end writes it, to instructions that a warp of 32 lanes can execute.
//
// A register is an array of 32 values: u32 for predicates and up to 32 bits, u64 for 64 bits. Operands are offsets into the
// memory of a warp; a constant is a register that nothing writes to.
#pragma once
#include <algorithm>
#include <cctype>
#include <cstdint>
#include <cstring>
#include <map>
#include <stdexcept>
#include <string>
#include <tuple>
#include <vector>

namespace ptx {

constexpr int LANES = 32;
using u16 = uint16_t;
using u32 = uint32_t;
using u64 = uint64_t;
using s32 = int32_t;
using s64 = int64_t;

struct Unsupported : std::runtime_error {
    using std::runtime_error::runtime_error;
};

// What stands for an address or a number that is only known when a kernel is launched.
// `Sink` is what nobody reads.
enum class Late { None, Shared, Param, Local, Sink };

struct Operand {
    u32 at = 0;       // where in a warp's memory
    bool wide = false; // u64, else u32
    bool memory = false;
    s64 offset = 0; // of an address
};

struct Warp;
struct Instr;
using Execute = void (*)(Warp &, const Instr &);

struct Instr {
    Execute execute = nullptr;
    std::vector<Operand> a; // in the order they are written, groups in braces laid open
    int first = 0;          // how many of them the first group has
    int mode = 0;           // what `execute` needs besides
    u32 target = 0;         // of a branch
    int guard = -1;         // its predicate
    bool negated = false;
    bool collective = false; // needs the lanes of a mask together
    int line = 0;
    std::string text;

    int count() const { return (int)a.size(); }
};

struct Constant {
    u32 at;
    bool wide;
    u64 value;
    Late late;
};

struct Special {
    u32 at;
    std::string name;
};

struct Kernel {
    std::string name;
    std::vector<u32> param_sizes, param_offsets;
    u32 param_bytes = 0;
    u32 shared_bytes = 0, local_bytes = 0;
    u32 warp_bytes = 0;
    std::vector<Instr> code;
    std::vector<Constant> constants;
    std::vector<Special> specials;
};

Execute find(const std::string &opcode, Instr &instr);

class Reader {
  public:
    explicit Reader(const std::string &text) : text(text) {}

    std::map<std::string, Kernel> read() {
        std::map<std::string, Kernel> kernels;
        skip();
        while (at < text.size()) {
            std::string word = peek_word();
            if (word == ".version" || word == ".target" || word == ".address_size") {
                line_end();
            } else if (word == ".extern") {
                dynamic = words(statement()).back();
                dynamic = dynamic.substr(0, dynamic.find('['));
            } else if (word == ".shared") {
                shared(statement());
            } else if (word == ".func" || (word == ".visible" && text.compare(at + 9, 5, ".func") == 0)) {
                // Of libdevice: it is inlined where it is called.
                at = text.find("\n}", at) + 2;
            } else if (word == ".visible" || word == ".entry") {
                entry();
                kernels.emplace(kernel.name, std::move(kernel));
                kernel = Kernel();
            } else {
                throw Unsupported("module directive " + word);
            }
            skip();
        }
        return kernels;
    }

  private:
    const std::string &text;
    size_t at = 0;
    Kernel kernel;
    std::map<std::string, u32> bases;   // of a class of registers
    std::map<std::string, bool> widths; // whether a class is wide
    std::map<std::string, u32> labels, named;
    std::map<std::string, std::pair<Late, u64>> symbols;
    std::map<std::string, u32> specials;
    std::map<std::tuple<u64, bool, int>, u32> constants;
    std::string dynamic;

    void skip() {
        while (at < text.size()) {
            if (isspace((unsigned char)text[at])) at++;
            else if (text.compare(at, 2, "//") == 0) line_end();
            else if (text[at] == 0) at = text.size();
            else break;
        }
    }
    void line_end() {
        while (at < text.size() && text[at] != '\n') at++;
    }
    std::string peek_word() const {
        size_t end = at;
        while (end < text.size() && !isspace((unsigned char)text[end]) && text[end] != ';') end++;
        return text.substr(at, end - at);
    }
    std::string statement() {
        size_t end = text.find(';', at);
        std::string found = text.substr(at, end - at);
        at = end + 1;
        return found;
    }
    static std::string trim(std::string s) {
        size_t b = s.find_first_not_of(" \t\n"), e = s.find_last_not_of(" \t\n");
        return b == std::string::npos ? "" : s.substr(b, e - b + 1);
    }
    static std::vector<std::string> words(const std::string &s) {
        std::vector<std::string> out;
        std::string word;
        for (char c : s + " ") {
            if (isspace((unsigned char)c) || c == ',') {
                if (!word.empty()) out.push_back(word);
                word.clear();
            } else word += c;
        }
        return out;
    }
    static u32 size_of(const std::string &type) {
        size_t digit = type.find_first_of("0123456789");
        return digit == std::string::npos ? 1 : std::stoul(type.substr(digit)) / 8;
    }

    // `.shared .align 4 .b8 name[16]`
    void shared(const std::string &declared) {
        auto parts = words(declared);
        std::string name = parts.back();
        u32 count = 1, align = 16, size = 1;
        for (size_t i = 0; i < parts.size(); i++)
            if (parts[i] == ".align") align = std::stoul(parts[i + 1]);
            else if (parts[i].size() > 2 && parts[i][0] == '.' && strchr("busf", parts[i][1]) && isdigit((unsigned char)parts[i][2])) size = size_of(parts[i]);
        size_t open = name.find('[');
        if (open != std::string::npos) {
            count = std::stoul(name.substr(open + 1));
            name = name.substr(0, open);
        }
        kernel.shared_bytes = (kernel.shared_bytes + align - 1) / align * align;
        symbols[name] = {Late::Shared, kernel.shared_bytes};
        kernel.shared_bytes += count * size;
    }

    void entry() {
        size_t open = text.find('(', at);
        std::string head = text.substr(at, open - at);
        kernel.name = words(head).back();
        size_t close = text.find("\n)", open);
        if (close == std::string::npos || text.find(')', open) < close) close = text.find(')', open);
        parameters(text.substr(open + 1, close - open - 1));
        size_t body = text.find('{', close);
        at = body + 1;
        // Places in code are known before it is read: a branch may go forward.
        u32 place = 0;
        std::vector<std::pair<std::string, int>> statements;
        int depth = 1;
        int line = 1 + (int)std::count(text.begin(), text.begin() + at, '\n');
        size_t counted = at;
        while (depth > 0) {
            skip();
            line += (int)std::count(text.begin() + counted, text.begin() + at, '\n');
            counted = at;
            if (text[at] == '}') depth--, at++;
            else if (text[at] == '{') depth++, at++;
            else if (text[at] == '$' || (text[at] == '_' && peek_word().back() == ':')) {
                size_t colon = text.find(':', at);
                labels[text.substr(at, colon - at)] = place;
                at = colon + 1;
            } else {
                std::string s = trim(statement());
                if (s[0] == '.') directive(s);
                else {
                    statements.push_back({s, line});
                    place++;
                }
            }
        }
        for (auto &[s, l] : statements) instruction(s, l);
        kernel.code.emplace_back();
        kernel.code.back().execute = find("ret", kernel.code.back());
        kernel.code.back().text = "ret";
    }

    void parameters(const std::string &list) {
        std::string item;
        for (char c : list + ",") {
            if (c != ',') {
                item += c;
                continue;
            }
            auto parts = words(item);
            item.clear();
            if (parts.empty()) continue;
            u32 size = 0, align = 0, count = 1;
            for (size_t i = 0; i < parts.size(); i++) {
                if (parts[i] == ".align") {
                    if (size == 0) align = std::stoul(parts[i + 1]);
                } else if (size == 0 && parts[i].size() > 2 && strchr("busf", parts[i][1]) && isdigit((unsigned char)parts[i][2])) size = size_of(parts[i]);
            }
            std::string name = parts.back();
            size_t open = name.find('[');
            if (open != std::string::npos) {
                count = std::stoul(name.substr(open + 1));
                name = name.substr(0, open);
            }
            if (align == 0) align = size;
            kernel.param_bytes = (kernel.param_bytes + align - 1) / align * align;
            symbols[name] = {Late::Param, kernel.param_bytes};
            kernel.param_offsets.push_back(kernel.param_bytes);
            kernel.param_sizes.push_back(size * count);
            kernel.param_bytes += size * count;
        }
    }

    u32 take(bool wide) {
        kernel.warp_bytes = (kernel.warp_bytes + 63) / 64 * 64;
        u32 place = kernel.warp_bytes;
        kernel.warp_bytes += LANES * (wide ? 8 : 4);
        return place;
    }

    void directive(const std::string &s) {
        auto parts = words(s);
        if (parts[0] == ".reg") {
            bool wide = parts[1] == ".b64" || parts[1] == ".f64" || parts[1] == ".u64" || parts[1] == ".s64";
            if (parts[1] == ".b128") throw Unsupported("registers of 128 bits");
            for (size_t i = 2; i < parts.size(); i++) {
                std::string name = parts[i];
                size_t open = name.find('<');
                if (open == std::string::npos) {
                    named[name] = take(wide);
                    widths[name] = wide;
                    continue;
                }
                u32 count = std::stoul(name.substr(open + 1));
                name = name.substr(0, open);
                bases[name] = take(wide);
                kernel.warp_bytes = bases[name] + count * LANES * (wide ? 8 : 4);
                widths[name] = wide;
            }
        } else if (parts[0] == ".local") {
            std::string name = parts.back();
            size_t open = name.find('[');
            symbols[name.substr(0, open)] = {Late::Local, kernel.local_bytes};
            kernel.local_bytes += (std::stoul(name.substr(open + 1)) + 15) / 16 * 16;
        } else if (parts[0] == ".shared") {
            shared(s);
        } else if (parts[0] != ".pragma" && parts[0] != ".loc" && parts[0] != ".file") {
            throw Unsupported("directive " + parts[0]);
        }
    }

    Operand constant(u64 value, bool wide, Late late = Late::None) {
        auto key = std::make_tuple(value, wide, (int)late);
        auto found = constants.find(key);
        if (found == constants.end()) {
            u32 place = take(wide);
            kernel.constants.push_back({place, wide, value, late});
            found = constants.emplace(key, place).first;
        }
        Operand o;
        o.at = found->second;
        o.wide = wide;
        return o;
    }

    Operand operand(std::string s, bool wide) {
        Operand o;
        if (s[0] == '[') {
            std::string inner = trim(s.substr(1, s.size() - 2));
            size_t plus = inner.find_first_of("+-", 1);
            s64 offset = 0;
            if (plus != std::string::npos) {
                offset = std::stoll(trim(inner.substr(inner[plus] == '+' ? plus + 1 : plus)));
                inner = trim(inner.substr(0, plus));
            }
            o = operand(inner, true);
            o.memory = true;
            o.offset = offset;
            return o;
        }
        if (s[0] == '%') {
            auto single = named.find(s);
            if (single != named.end()) {
                o.at = single->second;
                o.wide = widths[s];
                return o;
            }
            size_t digit = s.find_first_of("0123456789");
            if (digit != std::string::npos) {
                auto base = bases.find(s.substr(0, digit));
                if (base != bases.end()) {
                    o.wide = widths[s.substr(0, digit)];
                    o.at = base->second + std::stoul(s.substr(digit)) * LANES * (o.wide ? 8 : 4);
                    return o;
                }
            }
            auto known = specials.find(s);
            if (known == specials.end()) {
                u32 place = take(false);
                kernel.specials.push_back({place, s.substr(1)});
                known = specials.emplace(s, place).first;
            }
            o.at = known->second;
            return o;
        }
        if (s.compare(0, 2, "0f") == 0) return constant(std::stoull(s.substr(2), nullptr, 16), wide);
        if (s.compare(0, 2, "0d") == 0) return constant(std::stoull(s.substr(2), nullptr, 16), true);
        if (isdigit((unsigned char)s[0]) || s[0] == '-') {
            u64 value = s[0] == '-' ? (u64)std::stoll(s) : std::stoull(s, nullptr, 0);
            return constant(wide ? value : (u32)value, wide);
        }
        if (s.compare(0, 2, "0x") == 0) return constant(std::stoull(s, nullptr, 16), wide);
        // What a launch adds to the shared memory lies behind what the kernel declares.
        if (s == "_") return constant(0, false, Late::Sink);
        if (s == dynamic) return constant((kernel.shared_bytes + 127) / 128 * 128, true, Late::Shared);
        auto symbol = symbols.find(s);
        if (symbol == symbols.end()) throw Unsupported("operand " + s);
        return constant(symbol->second.second, true, symbol->second.first);
    }

    // Whether constants of an instruction have 64 bits.
    static bool wide_constants(const std::string &op) {
        size_t last = op.find_last_of('.');
        std::string type = op.substr(last + 1);
        if (op.compare(0, 4, "shl.") == 0 || op.compare(0, 4, "shr.") == 0) return false; // the amount; values are registers
        if (op.find("mul.wide") == 0 || op.find("mad.wide") == 0) return false;
        if (op.compare(0, 4, "cvt.") == 0) return size_of(type) == 8;
        return type.size() == 3 && type.compare(1, 2, "64") == 0;
    }

    void instruction(std::string s, int line) {
        Instr instr;
        instr.line = line;
        instr.text = s;
        if (s[0] == '@') {
            size_t space = s.find_first_of(" \t");
            std::string guard = s.substr(1, space - 1);
            instr.negated = guard[0] == '!';
            instr.guard = (int)operand(instr.negated ? guard.substr(1) : guard, false).at;
            s = trim(s.substr(space));
        }
        size_t space = s.find_first_of(" \t\n");
        std::string op = s.substr(0, space);
        std::string rest = space == std::string::npos ? "" : trim(s.substr(space));
        if (op == "bra" || op == "bra.uni") {
            auto label = labels.find(rest);
            if (label == labels.end()) throw Unsupported("label " + rest);
            instr.target = label->second;
        } else {
            bool wide = wide_constants(op);
            std::string item;
            int depth = 0;
            bool first = true;
            auto add = [&](std::string one) {
                one = trim(one);
                if (one.empty()) return;
                size_t bar = one[0] == '[' ? std::string::npos : one.find('|');
                if (bar != std::string::npos) {
                    instr.a.push_back(operand(trim(one.substr(0, bar)), wide));
                    one = trim(one.substr(bar + 1));
                }
                instr.a.push_back(operand(one, wide));
            };
            for (char c : rest + ",") {
                if (c == '{') depth++;
                else if (c == '}') {
                    add(item);
                    item.clear();
                    depth--;
                    if (first) instr.first = instr.count(), first = false;
                } else if (c == ',') {
                    add(item);
                    item.clear();
                } else item += c;
            }
        }
        instr.execute = find(op, instr);
        kernel.code.push_back(std::move(instr));
    }
};

} // namespace ptx
