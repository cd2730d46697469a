//! What cutting and gathering packets costs per byte, in memory and on one core.
#![expect(clippy::unwrap_used, reason = "a benchmark that cannot go on fails")]

use std::hint::black_box;
use std::ops::Range;

use criterion::{BatchSize, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use segments::checksum::Sum;
use segments::{Coalescer, Offload, Split, VirtioHeader};

/// Bytes of payload in a segment of a device with an MTU of 1,400 bytes.
const SIZE: usize = 1_348;
/// Segments of a super-packet.
const COUNT: usize = 45;
/// Where the payload begins: IPv4, TCP, timestamps.
const HEADERS: usize = 52;

fn checksum(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("checksum");
    for length in [64, 1_400, 9_000, 65_535] {
        let bytes = vec![0x5a; length];
        group.throughput(Throughput::Bytes(length as u64));
        group.bench_with_input(BenchmarkId::from_parameter(length), &bytes, |bencher, bytes| {
            bencher.iter(|| Sum::of(black_box(bytes)).checksum());
        });
    }
    group.finish();
}

/// A frame of the device: TCP over IPv4.
fn super_packet(payload: usize) -> (VirtioHeader, Vec<u8>) {
    let mut frame = vec![0x5a; HEADERS + payload];
    let total = (frame.len() as u16).to_be_bytes();
    frame[..20].copy_from_slice(&[69, 0, total[0], total[1], 0, 7, 64, 0, 64, 6, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
    frame[20..40].copy_from_slice(&[156, 64, 1, 187, 0, 0, 3, 232, 0, 0, 19, 136, 128, 16, 1, 245, 0, 0, 0, 0]);
    frame[40..52].copy_from_slice(&[1, 1, 8, 10, 0, 0, 0, 9, 0, 0, 0, 8]);
    let header = VirtioHeader {
        gso_type: VirtioHeader::GSO_TCPV4,
        hdr_len: HEADERS as u16,
        gso_size: SIZE as u16,
        ..VirtioHeader::default()
    };
    (header, frame)
}

fn split(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("split");
    let (header, frame) = super_packet(COUNT * SIZE);
    group.throughput(Throughput::Bytes(frame.len() as u64));
    // The headers of the first packet are back in place before each turn; the rest is payload, whatever it is.
    group.bench_function("TCP, 45 packets", |bencher| {
        let mut cut = frame.clone();
        bencher.iter(|| {
            cut[..HEADERS].copy_from_slice(&frame[..HEADERS]);
            let mut split = Split::new(header, black_box(&mut cut)).unwrap();
            while let Some(packet) = split.next_packet() {
                black_box(packet);
            }
        });
    });
    let (_, packet) = super_packet(0);
    group.throughput(Throughput::Elements(1));
    group.bench_function("nothing to cut", |bencher| {
        let mut packet = packet.clone();
        bencher.iter(|| {
            let mut split = Split::new(VirtioHeader::default(), black_box(&mut packet)).unwrap();
            black_box(split.next_packet()).is_some()
        });
    });
    group.finish();
}

/// The packets of so many flows in turn, in an arena.
fn packets(flows: u8, count: usize, size: usize) -> (Vec<u8>, Vec<Range<usize>>) {
    let (mut arena, mut ranges) = (Vec::new(), Vec::new());
    let all: Vec<Vec<Vec<u8>>> = (0..flows)
        .map(|flow| {
            let (header, mut frame) = super_packet(count * size);
            frame[21] = flow;
            let header = VirtioHeader { gso_size: size as u16, ..header };
            let mut split = Split::new(header, &mut frame).unwrap();
            std::iter::from_fn(|| split.next_packet().map(|packet| packet.to_vec())).collect()
        })
        .collect();
    for at in 0..count {
        for flow in &all {
            // As after the header and before the tag of a data packet.
            arena.extend([0; 24]);
            ranges.push(arena.len()..arena.len() + flow[at].len());
            arena.extend(&flow[at]);
        }
    }
    (arena, ranges)
}

fn coalesce(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("coalesce");
    let all = Offload { tcp: true, udp: true };
    let mut measure = |name: &str, offload, flows, count, size| {
        let (arena, ranges) = packets(flows, count, size);
        group.throughput(Throughput::Bytes(ranges.iter().map(|range| range.len() as u64).sum()));
        group.bench_function(name, |bencher| {
            let mut coalescer = Coalescer::new(offload);
            bencher.iter_batched_ref(
                || arena.clone(),
                |arena| {
                    let mut sink = |run: segments::Run<'_>| {
                        black_box(run.header());
                        run.parts().for_each(|part| {
                            black_box(part);
                        });
                    };
                    for range in &ranges {
                        coalescer.push(arena, range.clone(), &mut sink);
                    }
                    coalescer.flush(arena, &mut sink);
                },
                BatchSize::LargeInput,
            );
        });
    };
    measure("45 packets of one flow", all, 1, COUNT, SIZE);
    measure("64 small packets of one flow", all, 1, 64, 64);
    measure("45 packets of nine flows, which none joins", all, 9, 5, SIZE);
    measure("45 packets for a device that takes one by one", Offload::default(), 1, COUNT, SIZE);
    group.finish();
}

criterion_group!(benches, checksum, split, coalesce);
criterion_main!(benches);
