//! The filter in the kernel: ARP, neighbour discovery, DHCP and redundancy protocols pass, nothing else wakes us; of frames for
//! other hosts a few, cut behind the Ethernet header, so that it shows when a switch sends everything to all.

use crate::sys::Instruction;

/// One in so many frames for other hosts passes.
pub(super) const PASSING_ONE_IN: u32 = 64;

const LOAD_WORD: u16 = 0x20;
const LOAD_HALF: u16 = 0x28;
const LOAD_BYTE: u16 = 0x30;
const LOAD_HALF_INDEXED: u16 = 0x48;
const LOAD_HEADER_LENGTH: u16 = 0xb1;
const JUMP_EQUAL: u16 = 0x15;
const JUMP_GREATER: u16 = 0x25;
const JUMP_AT_LEAST: u16 = 0x35;
const JUMP_IF_SET: u16 = 0x45;
const RETURN: u16 = 0x06;

/// What is asked of the kernel about a frame instead of its bytes (`SKF_AD_OFF` and on).
const PACKET_TYPE: u32 = 0xffff_f000 + 4;
const HARDWARE_TYPE: u32 = 0xffff_f000 + 28;
const RANDOM: u32 = 0xffff_f000 + 56;
const OTHER_HOST: u32 = 3;
const ETHERNET: u32 = 1;
const WHOLE: u32 = 0xffff;
const ETHERNET_HEADER: u32 = 14;

/// Where a jump goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum To {
    Next,
    Passing,
    Version4,
    Version6,
    Message6,
    Udp6,
    Extension,
    Sampled,
    Reject,
}

/// A step: an instruction with its two ways, or a place that is jumped to.
enum Step {
    Do(u16, u32),
    Jump(u16, u32, To, To),
    Place(To),
}

/// The program. One in `one_in` of the frames that interest passes.
pub(super) fn program(one_in: u32) -> Vec<Instruction> {
    use Step::{Do, Jump, Place};
    let is = |value: u32, to: To| Jump(JUMP_EQUAL, value, to, To::Next);
    let only = |value: u32| Jump(JUMP_EQUAL, value, To::Next, To::Reject);
    let one_of = |count: u32| Jump(JUMP_GREATER, u32::MAX / count.max(1), To::Reject, To::Next);
    let reject = || Do(RETURN, 0);
    let steps = [
        vec![Do(LOAD_WORD, HARDWARE_TYPE), only(ETHERNET)],
        vec![Do(LOAD_WORD, PACKET_TYPE), is(OTHER_HOST, To::Passing), Do(LOAD_HALF, 12)],
        vec![is(0x0806, To::Sampled), is(0x86dd, To::Version6), is(0x0800, To::Version4)],
        vec![reject(), Place(To::Version4), Do(LOAD_BYTE, 23), is(112, To::Sampled), only(17)],
        // No fragment but the first.
        vec![Do(LOAD_HALF, 20), Jump(JUMP_IF_SET, 0x1fff, To::Reject, To::Next)],
        vec![Do(LOAD_HEADER_LENGTH, 14), Do(LOAD_HALF_INDEXED, 14)],
        vec![is(67, To::Sampled), is(68, To::Sampled), is(1985, To::Sampled)],
        vec![Do(LOAD_HALF_INDEXED, 16), is(67, To::Sampled), is(68, To::Sampled), reject()],
        vec![Place(To::Version6), Do(LOAD_BYTE, 20), is(58, To::Message6), is(17, To::Udp6)],
        vec![is(112, To::Sampled), is(0, To::Extension), is(43, To::Extension), is(60, To::Extension)],
        // Neighbour discovery behind extension headers: its hop limit is 255, that of hardly anything else.
        vec![reject(), Place(To::Extension), Do(LOAD_BYTE, 21), is(255, To::Sampled), reject()],
        vec![Place(To::Message6), Do(LOAD_BYTE, 54), Jump(JUMP_AT_LEAST, 133, To::Next, To::Reject)],
        vec![Jump(JUMP_GREATER, 137, To::Reject, To::Sampled)],
        vec![Place(To::Udp6), Do(LOAD_HALF, 54), is(546, To::Sampled), is(547, To::Sampled), reject()],
        vec![Place(To::Passing), Do(LOAD_WORD, RANDOM), one_of(PASSING_ONE_IN)],
        vec![Do(RETURN, ETHERNET_HEADER)],
        vec![Place(To::Sampled), Do(LOAD_WORD, RANDOM), one_of(one_in), Do(RETURN, WHOLE)],
        vec![Place(To::Reject), reject()],
    ];
    assemble(&steps.into_iter().flatten().collect::<Vec<_>>())
}

fn assemble(steps: &[Step]) -> Vec<Instruction> {
    let mut places = Vec::new();
    let mut at = 0usize;
    for step in steps {
        match step {
            Step::Place(to) => places.push((*to, at)),
            Step::Do(..) | Step::Jump(..) => at += 1,
        }
    }
    let mut program = Vec::with_capacity(at);
    for step in steps {
        let here = program.len() + 1;
        let way = |to: To| {
            let place = places.iter().find(|(place, _)| *place == to).map_or(here, |(_, at)| *at);
            u8::try_from(place.saturating_sub(here)).unwrap_or(u8::MAX)
        };
        match step {
            Step::Do(code, operand) => program.push((*code, 0, 0, *operand)),
            Step::Jump(code, operand, yes, no) => program.push((*code, way(*yes), way(*no), *operand)),
            Step::Place(_) => {}
        }
    }
    program
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_jump_lands_in_the_program_and_the_kernel_takes_it() {
        for one_in in [1, 7, 1_000] {
            let program = program(one_in);
            for (at, (code, yes, no, _)) in program.iter().enumerate() {
                if code & 7 == 5 {
                    assert!(at + 1 + usize::from(*yes.max(no)) < program.len());
                }
            }
            let (socket, _other) = std::os::unix::net::UnixDatagram::pair().unwrap();
            crate::sys::attach_filter(&socket, &program).unwrap();
        }
    }
}
