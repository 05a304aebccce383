//! What the processor and kernel offer a program, for the comparison at restart. Lower half.

use serde::{Deserialize, Serialize};

/// Features a running program may have come to rely on (through IFUNC choices made at its start,
/// and the layout of saved registers).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Processor {
    /// CPUID leaf 1 (ecx, edx), leaf 7 (ebx, ecx, edx), leaf 0x80000001 (ecx, edx).
    words: [u32; 7],
    /// XCR0: register sets the kernel saves.
    register_sets: u64,
}

/// Bits of leaf 1 ecx that are no feature a program relies on: monitor, debug store, VMX, SMX,
/// speed step, thermal monitor, context id, x2APIC, TSC deadline, OSXSAVE (covered by XCR0), hypervisor.
const LEAF1_ECX_IGNORED: u32 = 1 << 3
    | 1 << 2
    | 1 << 4
    | 1 << 5
    | 1 << 6
    | 1 << 7
    | 1 << 8
    | 1 << 10
    | 1 << 21
    | 1 << 24
    | 1 << 31;

/// Names for messages: word, bit, name.
const NAMES: &[(usize, u32, &str)] = &[
    (0, 0, "sse3"),
    (0, 9, "ssse3"),
    (0, 12, "fma"),
    (0, 19, "sse4_1"),
    (0, 20, "sse4_2"),
    (0, 22, "movbe"),
    (0, 23, "popcnt"),
    (0, 25, "aes"),
    (0, 26, "xsave"),
    (0, 28, "avx"),
    (0, 29, "f16c"),
    (0, 30, "rdrand"),
    (2, 3, "bmi1"),
    (2, 5, "avx2"),
    (2, 8, "bmi2"),
    (2, 9, "erms"),
    (2, 11, "rtm"),
    (2, 16, "avx512f"),
    (2, 17, "avx512dq"),
    (2, 28, "avx512cd"),
    (2, 30, "avx512bw"),
    (2, 31, "avx512vl"),
    (4, 24, "amx_tile"),
    (5, 5, "lzcnt"),
];

impl Processor {
    /// That of this machine.
    pub fn here() -> Processor {
        use core::arch::x86_64::{__cpuid, __cpuid_count, _xgetbv};
        let one = __cpuid(1);
        let seven = if __cpuid(0).eax >= 7 {
            __cpuid_count(7, 0)
        } else {
            __cpuid(0x8000_0000)
        };
        let has_seven = __cpuid(0).eax >= 7;
        let extended = __cpuid(0x8000_0001);
        #[target_feature(enable = "xsave")]
        fn xcr0() -> u64 {
            // SAFETY: the caller has checked OSXSAVE.
            unsafe { _xgetbv(0) }
        }
        let register_sets = if one.ecx & 1 << 27 != 0 {
            // SAFETY: OSXSAVE says that the instruction works.
            unsafe { xcr0() }
        } else {
            3
        };
        let leaf7 = |word: u32| if has_seven { word } else { 0 };
        Processor {
            words: [
                one.ecx & !LEAF1_ECX_IGNORED,
                one.edx & (1 << 4 | 1 << 8 | 1 << 15 | 1 << 23 | 1 << 24 | 1 << 25 | 1 << 26),
                leaf7(seven.ebx) & !(1 << 1 | 1 << 12 | 1 << 15 | 1 << 25 | 1 << 22),
                leaf7(seven.ecx) & !(1 << 4 | 1 << 24),
                leaf7(seven.edx)
                    & (1 << 2 | 1 << 3 | 1 << 4 | 1 << 8 | 1 << 22 | 1 << 23 | 1 << 24 | 1 << 25),
                extended.ecx
                    & (1 | 1 << 5 | 1 << 6 | 1 << 7 | 1 << 8 | 1 << 11 | 1 << 16 | 1 << 21),
                extended.edx & (1 << 27),
            ],
            register_sets,
        }
    }

    /// Names of what `self` had and `here` lacks; empty: it can run here.
    pub fn missing_on(&self, here: &Processor) -> Vec<String> {
        let mut missing = Vec::new();
        for (word, (had, has)) in self.words.iter().zip(here.words).enumerate() {
            for bit in (0..32).filter(|bit| had & !has & 1 << bit != 0) {
                let name = NAMES.iter().find(|(w, b, _)| (*w, *b) == (word, bit));
                missing.push(name.map_or_else(
                    || format!("cpuid word {word} bit {bit}"),
                    |n| n.2.to_owned(),
                ));
            }
        }
        if self.register_sets & !here.register_sets != 0 {
            missing.push(format!(
                "register sets {:#x}",
                self.register_sets & !here.register_sets
            ));
        }
        missing
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_feature_is_named() {
        let here = Processor::here();
        assert!(here.missing_on(&here).is_empty());
        let mut richer = here.clone();
        let mut poorer = here.clone();
        richer.words[2] |= 1 << 16;
        poorer.words[2] &= !(1 << 16);
        assert_eq!(richer.missing_on(&poorer), ["avx512f"]);
    }
}
