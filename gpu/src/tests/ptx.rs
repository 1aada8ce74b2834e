//! The shipped PTX as a [`Device`]: executed instruction by instruction, thread after thread. So what is tested is what the compiler
//! made of the kernels, inline assembly and the places of parameters included.
//!
//! It knows the instructions that are in `kernel/code.ptx`, as NVIDIA's "PTX ISA" 8.1 defines them, and stops at any other.

use std::collections::HashMap;

use crate::device::{Device, DeviceError, Job, by_work};
use crate::ffi::on_host::HostSlot;
use crate::host_memory::Registrations;
use crate::work::{Kernel, Launch, THREADS, launches};

const PTX: &str = include_str!("../kernel/code.ptx");
/// Where a stripe's memory begins, in the device's addresses: that of slot `n` at `n + 1` times it.
const SLOT_ADDRESSES: u64 = 1 << 32;
/// Where a kernel's second parameter begins, in the addresses of parameters.
const SECOND_PARAMETER: u64 = 1 << 16;

#[derive(Debug, Clone, Copy)]
enum Operand {
    Register(usize),
    Value(u64),
    /// `[register + offset]`
    Memory(usize, i64),
}

#[derive(Debug)]
struct Instruction {
    /// Executed only where this predicate is set.
    guard: Option<usize>,
    opcode: &'static str,
    operands: Vec<Operand>,
}

/// A kernel, decoded. Registers of all kinds are numbered together, the special ones first.
#[derive(Debug)]
struct Program {
    instructions: Vec<Instruction>,
    registers: usize,
}

const BLOCK: usize = 0;
const STRIPE: usize = 1;
const THREAD: usize = 2;

impl Program {
    fn of(kernel: Kernel) -> Self {
        let begin = format!(".visible .entry {}(", kernel.name());
        let (_, text) = PTX.split_once(&begin).unwrap();
        let (head, body) = text.split_once("{\n").unwrap();
        let (body, _) = body.split_once("\n}").unwrap();
        let parameters = head.matches(".param").count() as u64;
        let mut names: HashMap<&str, Operand> = HashMap::new();
        for (name, number) in [("%ctaid.x", BLOCK), ("%ctaid.y", STRIPE), ("%tid.x", THREAD)] {
            names.insert(name, Operand::Register(number));
        }
        let lines = || {
            body.lines()
                .filter_map(|line| line.split("//").next())
                .map(str::trim)
                .filter(|line| !line.is_empty())
        };
        let mut at = 0;
        for line in lines().filter(|line| !line.starts_with('.')) {
            match line.strip_suffix(':') {
                Some(label) => drop(names.insert(label, Operand::Value(at))),
                None => at += 1,
            }
        }
        let parameter = |name: &str| {
            let number: u64 = name.strip_prefix(kernel.name())?.strip_prefix("_param_")?.parse().ok()?;
            (number < parameters).then_some(Operand::Value(number * SECOND_PARAMETER))
        };
        let mut registers = 3;
        let mut operand = |text: &'static str| {
            if let Some(known) = names.get(text) {
                return *known;
            }
            if let Some(value) =
                text.strip_prefix("0x").map(|digits| u64::from_str_radix(digits, 16).unwrap())
            {
                return Operand::Value(value);
            }
            if let Some(value) =
                text.parse::<i64>().ok().map(|value| Operand::Value(value as u64)).or(parameter(text))
            {
                return value;
            }
            assert!(text.starts_with('%'), "an operand {text:?}");
            registers += 1;
            names.insert(text, Operand::Register(registers - 1));
            Operand::Register(registers - 1)
        };
        let mut instructions = Vec::new();
        for line in lines().filter(|line| !line.starts_with('.') && !line.ends_with(':')) {
            let line = line.strip_suffix(';').unwrap();
            let (guard, line) = match line.strip_prefix('@').map(|line| line.split_once(' ').unwrap()) {
                Some((predicate, line)) => (Some(operand(predicate)), line.trim()),
                None => (None, line),
            };
            let guard = guard.map(|predicate| match predicate {
                Operand::Register(register) => register,
                other => panic!("a guard {other:?}"),
            });
            let (opcode, rest) = line.split_once([' ', '\t']).unwrap_or((line, ""));
            let words = rest
                .split(',')
                .map(|word| word.trim_matches(['{', '}', ' ', '\t']))
                .filter(|word| !word.is_empty());
            let operands = words
                .map(|word| match word.strip_prefix('[').and_then(|word| word.strip_suffix(']')) {
                    Some(place) => {
                        let (base, offset) = place.split_once('+').unwrap_or((place, "0"));
                        let Operand::Register(base) = operand(base) else { panic!("a place {place}") };
                        Operand::Memory(base, offset.parse().unwrap())
                    }
                    None => operand(word),
                })
                .collect();
            instructions.push(Instruction { guard, opcode, operands });
        }
        Self { instructions, registers }
    }

    /// One thread of the grid.
    fn run(&self, registers: &mut [u64], parameters: &[&[u8]; 2], memory: &mut [Job<HostSlot>]) {
        let mut at = 0;
        while let Some(Instruction { guard, opcode, operands }) = self.instructions.get(at) {
            at += 1;
            if guard.is_some_and(|predicate| registers[predicate] == 0) {
                continue;
            }
            let value = |number: usize| match operands[number] {
                Operand::Register(register) => registers[register],
                Operand::Value(value) => value,
                Operand::Memory(base, offset) => registers[base].wrapping_add_signed(offset),
            };
            let word = |number: usize| value(number) as u32;
            let result = match *opcode {
                "ret" => return,
                "bra" => {
                    at = value(0) as usize;
                    continue;
                }
                "mov.b64" | "mov.u64" | "mov.u32" | "mov.pred" | "cvt.u64.u32" => value(1),
                "and.b32" => u64::from(word(1) & word(2)),
                "xor.b32" => u64::from(word(1) ^ word(2)),
                "shl.b32" => u64::from(word(1) << word(2)),
                "shl.b64" => value(1) << value(2),
                "add.s64" => value(1).wrapping_add(value(2)),
                "mul.lo.s64" => value(1).wrapping_mul(value(2)),
                "mul.wide.u32" => u64::from(word(1)) * u64::from(word(2)),
                "mul.wide.s32" => (i64::from(word(1) as i32) * i64::from(word(2) as i32)) as u64,
                "prmt.b32" => u64::from(permuted(word(1), word(2), word(3))),
                "setp.ge.u64" => u64::from(value(1) >= value(2)),
                "setp.eq.b32" | "setp.eq.s32" => u64::from(word(1) == word(2)),
                "xor.pred" => value(1) ^ value(2),
                "not.pred" => value(1) ^ 1,
                "ld.param.u32" => u64::from(u32::from_le_bytes(parameter(parameters, value(1)))),
                "ld.param.u64" => u64::from_le_bytes(parameter(parameters, value(1))),
                "ld.global.cs.v4.u32" => {
                    let vector = *place(memory, value(4));
                    for (target, bytes) in operands.iter().zip(vector.chunks_exact(4)) {
                        let Operand::Register(target) = *target else { panic!("loads into {target:?}") };
                        registers[target] = u64::from(u32::from_le_bytes(bytes.try_into().unwrap()));
                    }
                    continue;
                }
                "st.global.cs.v4.u32" => {
                    let words: Vec<u8> = (1..=4).flat_map(|number| word(number).to_le_bytes()).collect();
                    place(memory, value(0)).copy_from_slice(&words);
                    continue;
                }
                other => panic!("an instruction {other}"),
            };
            let Operand::Register(target) = operands[0] else { panic!("{opcode} into {:?}", operands[0]) };
            registers[target] = result;
        }
        panic!("a kernel without an end");
    }
}

/// Four of the eight bytes of two words, chosen by a nibble each, whose highest bit asks for the sign of the byte instead.
fn permuted(low: u32, high: u32, selector: u32) -> u32 {
    let bytes = (u64::from(high) << 32 | u64::from(low)).to_le_bytes();
    u32::from_le_bytes(std::array::from_fn(|position| {
        let nibble = selector >> (4 * position);
        let byte = bytes[(nibble & 7) as usize];
        if nibble & 8 == 0 { byte } else { 0_u8.wrapping_sub(byte >> 7) }
    }))
}

fn parameter<const BYTES: usize>(parameters: &[&[u8]; 2], address: u64) -> [u8; BYTES] {
    let (number, offset) = ((address / SECOND_PARAMETER) as usize, (address % SECOND_PARAMETER) as usize);
    parameters[number][offset..offset + BYTES].try_into().unwrap()
}

/// 16 bytes of a slot, at a multiple of 16.
fn place(memory: &mut [Job<HostSlot>], address: u64) -> &mut [u8; 16] {
    let (slot, offset) = (address / SLOT_ADDRESSES - 1, (address % SLOT_ADDRESSES) as usize);
    assert!(offset.is_multiple_of(16), "a vector at {offset}");
    (&mut memory[slot as usize].slot.memory[offset..offset + 16]).try_into().unwrap()
}

/// The interpreter.
#[derive(Debug)]
pub(super) struct PtxDevice([Program; Kernel::ALL.len()]);

impl PtxDevice {
    pub(super) fn new() -> Self {
        Self(Kernel::ALL.map(Program::of))
    }
}

impl Device for PtxDevice {
    type Slot = HostSlot;

    fn name(&self) -> String {
        "an interpreter".to_owned()
    }

    fn slot(&mut self) -> Result<HostSlot, DeviceError> {
        Ok(HostSlot::new())
    }

    fn registrations(&self) -> Registrations {
        Registrations::default()
    }

    fn begin(&mut self, _lane: usize, jobs: &mut [Job<HostSlot>]) -> Result<(), DeviceError> {
        jobs.iter_mut().for_each(|job| job.slot.is_for(&job.work, job.shard_bytes));
        for (work, stripes) in by_work(jobs, |number, _| (number as u64 + 1) * SLOT_ADDRESSES) {
            let program = &self.0[work.kernel as usize];
            let plan: Vec<u8> = work.plan().iter().flat_map(|word| word.to_le_bytes()).collect();
            let mut registers = vec![0; program.registers];
            for Launch { blocks, stripes, batch } in launches(&stripes) {
                let batch = batch.bytes();
                for (stripe, block) in
                    (0..stripes).flat_map(|stripe| (0..blocks).map(move |block| (stripe, block)))
                {
                    for thread in 0..THREADS {
                        (registers[BLOCK], registers[STRIPE]) = (u64::from(block), u64::from(stripe));
                        registers[THREAD] = u64::from(thread);
                        program.run(&mut registers, &[&batch, &plan], jobs);
                    }
                }
            }
        }
        Ok(())
    }

    fn is_done(&mut self, _lane: usize) -> Result<bool, DeviceError> {
        Ok(true)
    }
}

#[test]
fn prmt_is_as_defined() {
    assert_eq!(permuted(0x8070_ff01, 0, 0xba98), 0xff00_ff00);
    assert_eq!(permuted(0x4433_2211, 0x8877_6655, 0x7531), 0x8866_4422);
    assert_eq!(permuted(0x4433_2211, 0x8877_6655, 0xf040), 0xff11_5511);
}
