//! What the protocol costs per packet, in memory and on one core: sealing and opening through the data channel beside
//! the bare cipher, the replay window, and tls-crypt.
#![expect(clippy::panic, clippy::unwrap_used, reason = "a benchmark that cannot go on fails")]

use std::hint::black_box;

use aws_lc_rs::aead::{self, Aad, LessSafeKey, Nonce, UnboundKey};
use criterion::{BatchSize, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use ovpn::data::{Cipher, DataChannel, OVERHEAD};
use ovpn::keys::KeyBlock;
use ovpn::packet::{Header, Opcode, SessionId};
use ovpn::protection::AuthDigest;
use ovpn::replay::ReplayWindow;
use ovpn::static_key::StaticKey;
use ovpn::wrap::{Role, WrapKeys};

/// Bytes of an inner packet.
const PACKET: usize = 1_400;
/// Sealed packets that are opened per batch; a packet opens only once.
const BATCH: usize = 256;
const PEER: u32 = 7;

fn channel(role: Role, cipher: Cipher) -> DataChannel {
    let block = KeyBlock::from_exporter(std::array::from_fn(|at| at as u8));
    DataChannel::new(role, 0, Some(PEER), cipher, AuthDigest::default(), &block).unwrap()
}

fn bare_key(cipher: Cipher) -> LessSafeKey {
    let algorithm = match cipher {
        Cipher::Aes256Gcm => &aead::AES_256_GCM,
        Cipher::Aes192Gcm => &aead::AES_192_GCM,
        Cipher::Aes128Gcm => &aead::AES_128_GCM,
        Cipher::ChaCha20Poly1305 => &aead::CHACHA20_POLY1305,
        Cipher::Aes256Cbc | Cipher::Aes192Cbc | Cipher::Aes128Cbc => panic!("{cipher} is no AEAD"),
    };
    LessSafeKey::new(UnboundKey::new(algorithm, &[7; 32][..algorithm.key_len()]).unwrap())
}

fn nonce() -> Nonce {
    Nonce::assume_unique_for_key([9; 12])
}

fn seal(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("seal");
    group.throughput(Throughput::Bytes(PACKET as u64));
    for &cipher in Cipher::ALL {
        group.bench_function(BenchmarkId::new("channel", cipher), |bencher| {
            let mut sender = channel(Role::Client, cipher);
            let mut out = vec![0; PACKET + OVERHEAD];
            let mut sealed: u32 = 0;
            bencher.iter(|| {
                // Keys wear out after 2^36 blocks: renewed long before, too rarely to show.
                sealed += 1;
                if sealed == 1 << 26 {
                    (sender, sealed) = (channel(Role::Client, cipher), 0);
                }
                sender.seal(black_box(&[0x5a; PACKET]), &mut out).unwrap()
            });
        });
        group.bench_function(BenchmarkId::new("bare cipher", cipher), |bencher| {
            let key = bare_key(cipher);
            let mut buffer = vec![0x5a; PACKET];
            bencher
                .iter(|| key.seal_in_place_separate_tag(nonce(), Aad::from([0; 8]), black_box(&mut buffer)).unwrap());
        });
    }
    group.finish();
}

fn open(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("open");
    group.throughput(Throughput::Bytes((PACKET * BATCH) as u64));
    for &cipher in Cipher::ALL {
        group.bench_function(BenchmarkId::new("channel", cipher), |bencher| {
            let sealed: Vec<Vec<u8>> = {
                let mut sender = channel(Role::Client, cipher);
                let mut seal = || {
                    let mut out = vec![0; PACKET + OVERHEAD];
                    let length = sender.seal(&[0x5a; PACKET], &mut out).unwrap();
                    out.truncate(length);
                    out
                };
                (0..BATCH).map(|_| seal()).collect()
            };
            bencher.iter_batched_ref(
                || (channel(Role::Server, cipher), sealed.clone()),
                |(receiver, packets)| {
                    for packet in packets {
                        black_box(receiver.open(packet).unwrap());
                    }
                },
                BatchSize::LargeInput,
            );
        });
        group.bench_function(BenchmarkId::new("bare cipher", cipher), |bencher| {
            let key = bare_key(cipher);
            let mut packet = vec![0x5a; PACKET];
            let tag = key.seal_in_place_separate_tag(nonce(), Aad::from([0; 8]), &mut packet).unwrap();
            let sealed = vec![packet; BATCH];
            bencher.iter_batched_ref(
                || sealed.clone(),
                |packets| {
                    for packet in packets {
                        black_box(
                            key.open_in_place_separate_tag(nonce(), Aad::from([0; 8]), tag.as_ref(), packet).unwrap(),
                        );
                    }
                },
                BatchSize::LargeInput,
            );
        });
    }
    group.finish();
}

fn replay_window(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("replay window");
    group.throughput(Throughput::Elements(1));
    group.bench_function("in order", |bencher| {
        let (mut window, mut id) = (ReplayWindow::default(), 0);
        bencher.iter(|| {
            id += 1;
            window.accept(black_box(id))
        });
    });
    group.bench_function("swapped pairs", |bencher| {
        let (mut window, mut id) = (ReplayWindow::default(), 1);
        bencher.iter(|| {
            id += 1;
            window.accept(black_box(id ^ 1))
        });
    });
    group.bench_function("replayed", |bencher| {
        let mut window = ReplayWindow::default();
        window.accept(1_000);
        bencher.iter(|| window.accept(black_box(1_000)));
    });
    group.finish();
}

/// A control packet full of TLS bytes.
fn tls_crypt(criterion: &mut Criterion) {
    const BODY: usize = 1_200;
    let key = StaticKey::from_bytes(std::array::from_fn(|at| (at * 7) as u8));
    let (client, server) = (WrapKeys::new(Role::Client, Some(&key)), WrapKeys::new(Role::Server, Some(&key)));
    let header = Header { opcode: Opcode::Control, key_id: 0 };
    let mut wrapped = Vec::new();
    client.seal(header, SessionId([1; 8]), (1, 1), &[0x5a; BODY], &mut wrapped).unwrap();

    let mut group = criterion.benchmark_group("tls-crypt");
    group.throughput(Throughput::Bytes(BODY as u64));
    group.bench_function("wrap", |bencher| {
        let mut out = Vec::new();
        bencher.iter(|| client.seal(header, SessionId([1; 8]), (1, 1), black_box(&[0x5a; BODY]), &mut out).unwrap());
    });
    group.bench_function("unwrap", |bencher| {
        bencher.iter_batched_ref(
            || wrapped.clone(),
            |packet| server.open(packet).map(|clear| clear.body.len()).unwrap(),
            BatchSize::SmallInput,
        );
    });
    group.bench_function("refuse a forged packet", |bencher| {
        let mut forged = wrapped.clone();
        forged[20] ^= 1;
        bencher.iter_batched_ref(|| forged.clone(), |packet| server.open(packet).is_err(), BatchSize::SmallInput);
    });
    group.finish();
}

criterion_group!(data_channel, seal, open, replay_window, tls_crypt);
criterion_main!(data_channel);
