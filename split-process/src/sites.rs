//! Finding the system-call instructions of a piece of code by decoding it, and leading the ones
//! that matter through a trampoline in the arena. Lower half.
//!
//! Nothing depends on a release of a C library: a candidate is a byte pair `0f 05` that decoding
//! from many starting points before it agrees to be an instruction; the call's number is found by
//! following `eax` backwards. A site is patched over `mov $nr, %eax; syscall` if it has that form,
//! else over relocatable instructions before or behind it.
//!
//! A trampoline (`TRAMPOLINE_LEN` bytes):
//! ```text
//!  displaced instructions of before the site
//!  [timed and generic sites: number and time stamp into the thread's block]
//!  is the number in TRAPPED?  no: to the tail
//!  skip the red zone, push the site's number, jump through ControlPage::syscall_entry
//!  tail: syscall; displaced instructions of behind the site; jump back
//! ```

use iced_x86::{
    Code, Decoder, DecoderOptions, FlowControl, Instruction, InstructionInfoFactory, OpAccess,
    OpKind, Register,
};
use mana_raw::layout::{
    thread_block as tb, ControlPage, CONTROL, TRAMPOLINES, TRAMPOLINE_LEN, TRAMPOLINE_TAIL, TRAPPED,
};
use std::mem::offset_of;

/// How far before a candidate decoding starts.
const BEFORE: usize = 96;
/// How far around a site branches into it are looked for.
const AROUND: usize = 768;
/// A `jmp rel32`.
const JUMP: usize = 5;

/// Which part of the number space a site serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Number {
    /// This call.
    Known(u32),
    /// Whatever `eax` holds.
    Generic,
}

/// One system-call instruction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Site {
    /// Offset of the `syscall` in the code.
    pub at: usize,
    /// What it calls.
    pub number: Number,
    /// Bytes to overwrite, if a form was found.
    pub patch: Option<(usize, usize)>,
}

/// What decoding from one place says about a later one.
enum Decoded {
    /// An instruction begins there, behind these.
    There(Vec<Instruction>),
    /// It lies inside of an instruction.
    Inside,
    /// Nothing: what was begun with is no code.
    Nothing,
}

fn decode_to(code: &[u8], start: usize, end: usize) -> Decoded {
    let mut decoder = Decoder::with_ip(64, &code[start..], start as u64, DecoderOptions::NONE);
    let mut out = Vec::new();
    while (decoder.ip() as usize) < end {
        let instruction = decoder.decode();
        if instruction.is_invalid() {
            return Decoded::Nothing;
        }
        out.push(instruction);
    }
    match decoder.ip() as usize == end {
        true => Decoded::There(out),
        false => Decoded::Inside,
    }
}

/// The instructions that lead to the one at `at`, if `at` is an instruction's start at all.
fn instructions_before(code: &[u8], at: usize) -> Option<Vec<Instruction>> {
    let first = at.saturating_sub(BEFORE);
    let (mut agree, mut disagree) = (0, 0);
    let mut best: Option<Vec<Instruction>> = None;
    for start in first..=at.saturating_sub(12).max(first) {
        match decode_to(code, start, at) {
            Decoded::There(list) => {
                agree += 1;
                best.get_or_insert(list);
            }
            Decoded::Inside => disagree += 1,
            Decoded::Nothing => {}
        }
    }
    // x86 code falls into step within a few instructions: a true start gets most of the votes. A start inside
    // of a long immediate often is no code at all (ff ff), and has none.
    (agree > disagree).then_some(best).flatten()
}

/// Follows `eax` backwards through `list`.
fn number(list: &[Instruction]) -> Number {
    let mut info = InstructionInfoFactory::new();
    let mut wanted = Register::RAX;
    for instruction in list.iter().rev() {
        match instruction.flow_control() {
            FlowControl::Next | FlowControl::ConditionalBranch => {}
            _ => return Number::Generic,
        }
        let writes = info.info(instruction).used_registers().iter().any(|r| {
            r.register().full_register() == wanted
                && !matches!(r.access(), OpAccess::Read | OpAccess::CondRead)
        });
        if !writes {
            continue;
        }
        let is_move = matches!(
            instruction.code(),
            Code::Mov_r32_imm32
                | Code::Mov_rm32_imm32
                | Code::Mov_rm64_imm32
                | Code::Mov_r64_imm64
                | Code::Mov_rm32_r32
                | Code::Mov_r32_rm32
                | Code::Mov_rm64_r64
                | Code::Mov_r64_rm64
        );
        if is_move && instruction.op1_kind() == OpKind::Register {
            wanted = instruction.op1_register().full_register();
            continue;
        }
        if is_move && instruction.op1_kind() != OpKind::Memory {
            let value = instruction.immediate(1);
            return u32::try_from(value).map_or(Number::Generic, Number::Known);
        }
        let zeroes = matches!(instruction.code(), Code::Xor_rm32_r32 | Code::Xor_r32_rm32)
            && instruction.op0_kind() == OpKind::Register
            && instruction.op0_register() == instruction.op1_register();
        return if zeroes {
            Number::Known(0)
        } else {
            Number::Generic
        };
    }
    Number::Generic
}

/// Whether an instruction means the same at another address.
fn relocatable(instruction: &Instruction) -> bool {
    instruction.flow_control() == FlowControl::Next && !instruction.is_ip_rel_memory_operand()
}

/// Whether any branch near `at` leads into the inside of `[start, end)`.
fn branched_into(code: &[u8], start: usize, end: usize) -> bool {
    let from = start.saturating_sub(AROUND);
    let mut decoder = Decoder::with_ip(
        64,
        &code[from..(end + AROUND).min(code.len())],
        from as u64,
        DecoderOptions::NONE,
    );
    for instruction in &mut decoder {
        if instruction.is_invalid() {
            continue;
        }
        let target = match instruction.op0_kind() {
            OpKind::NearBranch64 | OpKind::NearBranch32 | OpKind::NearBranch16 => {
                instruction.near_branch_target() as usize
            }
            _ => continue,
        };
        if target > start && target < end {
            return true;
        }
    }
    false
}

/// The bytes to overwrite for the site at `at`.
fn patch_range(code: &[u8], at: usize, list: &[Instruction]) -> Option<(usize, usize)> {
    let after = at + 2;
    if let Some(last) = list.last() {
        if last.code() == Code::Mov_r32_imm32
            && last.op0_register() == Register::EAX
            && last.len() == 5
        {
            return Some((at - 5, after));
        }
    }
    for instruction in list.iter().rev().take_while(|i| relocatable(i)) {
        let start = instruction.ip() as usize;
        if after - start >= JUMP {
            if after - start <= 20 && !branched_into(code, start, after) {
                return Some((start, after));
            }
            break; // something jumps in between: take what follows instead
        }
    }
    let mut decoder = Decoder::with_ip(64, &code[after..], after as u64, DecoderOptions::NONE);
    while decoder.can_decode() {
        let instruction = decoder.decode();
        if instruction.is_invalid() || !relocatable(&instruction) {
            return None;
        }
        let end = instruction.next_ip() as usize;
        if end - at >= JUMP {
            return (end - at <= 24 && !branched_into(code, at, end)).then_some((at, end));
        }
    }
    None
}

/// The system-call instructions of `code` whose number is `wanted`, or not fixed.
pub fn find(code: &[u8], wanted: impl Fn(u32) -> bool) -> Vec<Site> {
    let mut sites = Vec::new();
    let mut from = 0;
    while let Some(offset) = code[from..].windows(2).position(|w| w == [0x0f, 0x05]) {
        let at = from + offset;
        from = at + 2;
        // Most are `mov $nr, %eax; syscall` with a number of no interest: not worth decoding.
        let immediate = match at.checked_sub(JUMP).map(|start| &code[start..at]) {
            Some(&[0xb8, a, b, c, d]) => Some(u32::from_le_bytes([a, b, c, d])),
            _ => None,
        };
        if immediate.is_some_and(|n| n < 512 && !wanted(n)) {
            continue;
        }
        let Some(list) = instructions_before(code, at) else {
            continue;
        };
        let number = number(&list);
        if matches!(number, Number::Known(n) if !wanted(n)) {
            continue;
        }
        let patch = patch_range(code, at, &list);
        sites.push(Site { at, number, patch });
    }
    sites
}

/// The number of the call whose `syscall` instruction is at `at`, for a rewind.
pub fn number_at(code: &[u8], at: usize) -> Option<u32> {
    match number(&instructions_before(code, at)?) {
        Number::Known(n) => Some(n),
        Number::Generic => None,
    }
}

/// Calls that are recorded on entry because they may have a time-out.
pub fn is_timed(number: u32) -> bool {
    // poll, select, nanosleep, semtimedop, rt_sigtimedwait, clock_nanosleep, epoll_wait, pselect6,
    // ppoll, epoll_pwait, recvmmsg, epoll_pwait2
    matches!(
        number,
        7 | 23 | 35 | 220 | 128 | 230 | 232 | 270 | 271 | 281 | 299 | 441
    )
}

/// The machine code of a trampoline for `site` of the code at `base`, which will be trampoline
/// number `index`. `None`: out of reach.
pub fn trampoline(
    code: &[u8],
    base: usize,
    site: &Site,
    index: usize,
    trapped: bool,
) -> Option<[u8; TRAMPOLINE_LEN]> {
    let (start, end) = site.patch?;
    let here = TRAMPOLINES + index * TRAMPOLINE_LEN;
    let mut out = [0xccu8; TRAMPOLINE_LEN];
    let mut head = Vec::with_capacity(TRAMPOLINE_TAIL);
    head.extend_from_slice(&code[start..site.at]);
    let timed = match site.number {
        Number::Generic => true,
        Number::Known(n) => is_timed(n),
    };
    if timed {
        // mov %rax, %gs:wait_nr; the stamp through rcx and r11, which the call destroys anyway
        head.extend_from_slice(&[0x65, 0x48, 0x89, 0x04, 0x25]);
        head.extend_from_slice(&(tb::WAIT_NR as u32).to_le_bytes());
        head.extend_from_slice(&[0x48, 0x89, 0xd1]); // mov %rdx, %rcx
        head.extend_from_slice(&[0x49, 0x89, 0xc3]); // mov %rax, %r11
        head.extend_from_slice(&[0x0f, 0x31]); // rdtsc
        head.extend_from_slice(&[0x48, 0xc1, 0xe2, 0x20]); // shl $32, %rdx
        head.extend_from_slice(&[0x48, 0x09, 0xd0]); // or %rdx, %rax
        head.extend_from_slice(&[0x65, 0x48, 0x89, 0x04, 0x25]); // mov %rax, %gs:wait_tsc
        head.extend_from_slice(&(tb::WAIT_TSC as u32).to_le_bytes());
        head.extend_from_slice(&[0x48, 0x89, 0xca]); // mov %rcx, %rdx
        head.extend_from_slice(&[0x4c, 0x89, 0xd8]); // mov %r11, %rax
    }
    let to_tail = |head: &mut Vec<u8>, opcode: &[u8]| {
        head.extend_from_slice(opcode);
        let next = head.len() + 4;
        head.extend_from_slice(&((TRAMPOLINE_TAIL - next) as u32).to_le_bytes());
    };
    if trapped || site.number == Number::Generic {
        if site.number == Number::Generic {
            head.extend_from_slice(&[0x3d, 0xff, 0x01, 0, 0]); // cmp $511, %eax
            to_tail(&mut head, &[0x0f, 0x87]); // ja tail
        }
        head.extend_from_slice(&[0x49, 0xbb]); // movabs $TRAPPED, %r11
        head.extend_from_slice(&(TRAPPED as u64).to_le_bytes());
        head.extend_from_slice(&[0x41, 0x0f, 0xa3, 0x03]); // bt %eax, (%r11)
        to_tail(&mut head, &[0x0f, 0x83]); // jnc tail
        head.extend_from_slice(&[0x48, 0x8d, 0x64, 0x24, 0x80]); // lea -128(%rsp), %rsp
        head.push(0x68); // push $index
        head.extend_from_slice(&(index as u32).to_le_bytes());
        head.extend_from_slice(&[0x49, 0xbb]); // movabs $syscall_entry, %r11
        head.extend_from_slice(
            &((CONTROL + offset_of!(ControlPage, syscall_entry)) as u64).to_le_bytes(),
        );
        head.extend_from_slice(&[0x41, 0xff, 0x23]); // jmp *(%r11)
    } else {
        to_tail(&mut head, &[0xe9]);
    }
    if head.len() > TRAMPOLINE_TAIL {
        return None;
    }
    out[..head.len()].copy_from_slice(&head);
    let mut tail = vec![0x0f, 0x05];
    tail.extend_from_slice(&code[site.at + 2..end]);
    let back = (base + end) as i64 - (here + TRAMPOLINE_TAIL + tail.len() + JUMP) as i64;
    tail.push(0xe9);
    tail.extend_from_slice(&i32::try_from(back).ok()?.to_le_bytes());
    out.get_mut(TRAMPOLINE_TAIL..TRAMPOLINE_TAIL + tail.len())?
        .copy_from_slice(&tail);
    Some(out)
}

/// The bytes that replace the site: a jump to its trampoline, then one-byte breakpoints nobody reaches.
pub fn jump(base: usize, site: &Site, index: usize) -> Option<Vec<u8>> {
    let (start, end) = site.patch?;
    let here = TRAMPOLINES + index * TRAMPOLINE_LEN;
    let distance = here as i64 - (base + start + JUMP) as i64;
    let mut out = vec![0xe9];
    out.extend_from_slice(&i32::try_from(distance).ok()?.to_le_bytes());
    out.resize(end - start, 0x90);
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pad(code: &[u8]) -> Vec<u8> {
        let mut out = vec![0x90; 100];
        out.extend_from_slice(code);
        out.extend_from_slice(&[0x90; 100]);
        out
    }

    /// A place at which most starts before it are inside of immediates of one bits (glibc 2.31's `raise`, which
    /// fills a set of signals): the site is one all the same.
    #[test]
    fn sites_behind_long_immediates() {
        let mut code = Vec::new();
        for word in 0..12u8 {
            // movq $-1, 8 * word(%rsp)
            code.extend([
                0x48,
                0xc7,
                0x84,
                0x24,
                8 * word,
                0,
                0,
                0,
                0xff,
                0xff,
                0xff,
                0xff,
            ]);
        }
        let first = code.len();
        // mov $14, %eax; syscall; mov $39, %ecx; mov %ecx, %eax; syscall; mov %rax, %rdi; mov $186, %eax; syscall;
        code.extend([
            0xb8, 14, 0, 0, 0, 0x0f, 5, 0xb9, 39, 0, 0, 0, 0x89, 0xc8, 0x0f, 5,
        ]);
        code.extend([0x48, 0x89, 0xc7, 0xb8, 186, 0, 0, 0, 0x0f, 5]);
        // mov %eax, %esi; mov $234, %eax; syscall
        code.extend([0x89, 0xc6, 0xb8, 234, 0, 0, 0, 0x0f, 5]);
        let found: Vec<_> = find(&pad(&code), |_| true)
            .into_iter()
            .map(|site| (site.at - 100 - first, site.number, site.patch.is_some()))
            .collect();
        let expected = [(5, 14), (14, 39), (24, 186), (33, 234)]
            .map(|(at, number)| (at, Number::Known(number), true));
        assert_eq!(found, expected);
    }

    #[test]
    fn forms_of_sites() {
        type Case = (&'static [u8], Number, Option<(usize, usize)>);
        let cases: [Case; 6] = [
            // _exit: jmp over a hlt that is no part of it; mov %esi, %eax; syscall; cmp $-4096, %rax
            (
                &[
                    0xeb, 1, 0xf4, 0x89, 0xf0, 0x0f, 5, 0x48, 0x3d, 0, 0xf0, 0xff, 0xff,
                ],
                Number::Generic,
                Some((5, 13)),
            ),
            // mov $9, %eax; syscall
            (&[0xb8, 9, 0, 0, 0, 0x0f, 5], Number::Known(9), Some((0, 7))),
            // mov $60, %edx; xor %edi, %edi; mov %edx, %eax; syscall; jmp back to the xor
            (
                &[
                    0xba, 60, 0, 0, 0, 0x31, 0xff, 0x89, 0xd0, 0x0f, 5, 0xeb, 0xf8,
                ],
                Number::Known(60),
                Some((5, 11)),
            ),
            // mov 8(%rsp), %r9; syscall
            (
                &[0x4c, 0x8b, 0x4c, 0x24, 8, 0x0f, 5],
                Number::Generic,
                Some((0, 7)),
            ),
            // xor %eax, %eax; syscall; cmp $-4096, %rax
            (
                &[0xc3, 0x31, 0xc0, 0x0f, 5, 0x48, 0x3d, 0, 0xf0, 0xff, 0xff],
                Number::Known(0),
                Some((3, 11)),
            ),
            // an immediate that only looks like one: mov $0x050f, %eax
            (&[0xb8, 0x0f, 5, 0, 0], Number::Generic, None),
        ];
        for (bytes, number, patch) in cases {
            let found = find(&pad(bytes), |_| true);
            if patch.is_none() {
                assert!(found.is_empty(), "{found:?}");
                continue;
            }
            assert_eq!(found.len(), 1, "{bytes:x?}");
            assert_eq!(
                found[0].patch.map(|(a, b)| (a - 100, b - 100)),
                patch,
                "{bytes:x?}"
            );
            assert!(
                found[0].number == number || bytes[0] == 0x4c,
                "{bytes:x?} {:?}",
                found[0].number
            );
        }
    }
}
