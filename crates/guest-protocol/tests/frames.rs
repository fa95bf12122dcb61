//! Frames survive any cutting of the byte stream, and no bytes can do harm.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;

use atoll_guest_protocol::frame::{self, MAX_FRAME};
use atoll_guest_protocol::guest::{FromGuest, ToGuest};
use atoll_guest_protocol::process::{Process, StreamControl, StreamEvent, Terminal};
use atoll_guest_protocol::shim::{Ask, ExitRecord, File, FromShim, Launch, Limits, Phase, ToShim};
use atoll_guest_protocol::{Channel, Connection, Decoder, Frame, FrameError, Versions};
use proptest::prelude::*;
use serde::{Serialize, de::DeserializeOwned};

fn channel() -> impl Strategy<Value = Channel> {
    prop_oneof![Just(Channel::Stdin), Just(Channel::Stdout), Just(Channel::Stderr)]
}

fn frame() -> impl Strategy<Value = Frame> {
    let bytes = prop::collection::vec(any::<u8>(), 1..200);
    prop_oneof![
        any::<String>().prop_map(|text| Frame::Control(serde_json::to_vec(&text).unwrap())),
        (channel(), any::<u32>(), bytes).prop_map(|(channel, stream, bytes)| Frame::Data { channel, stream, bytes }),
    ]
}

fn encode(frames: &[Frame]) -> Vec<u8> {
    let mut out = Vec::new();
    for frame in frames {
        match frame {
            Frame::Control(body) => {
                let message: serde_json::Value = frame::parse(body).unwrap();
                frame::encode_control(&mut out, &message).unwrap();
            }
            Frame::Data { channel, stream, bytes } => frame::encode_data(&mut out, *channel, *stream, bytes),
        }
    }
    out
}

fn decode(pieces: impl Iterator<Item = Vec<u8>>) -> Result<Vec<Frame>, FrameError> {
    let (mut decoder, mut frames) = (Decoder::default(), Vec::new());
    for piece in pieces {
        decoder.push(&piece);
        while let Some(frame) = decoder.next_frame()? {
            frames.push(frame);
        }
    }
    Ok(frames)
}

proptest! {
    #[test]
    fn frames_come_back_however_the_stream_is_cut(
        frames in prop::collection::vec(frame(), 0..20),
        cuts in 1usize..50,
    ) {
        let bytes = encode(&frames);
        let decoded = decode(bytes.chunks(cuts).map(<[u8]>::to_vec)).unwrap();
        prop_assert_eq!(decoded, frames);
    }

    #[test]
    fn any_bytes_are_frames_or_an_error(bytes in prop::collection::vec(any::<u8>(), 0..500), cuts in 1usize..100) {
        if let Ok(frames) = decode(bytes.chunks(cuts).map(<[u8]>::to_vec)) {
            for frame in frames {
                if let Frame::Control(body) = frame {
                    // Whether it parses does not matter; that it returns does.
                    drop(frame::parse::<ToGuest>(&body));
                    drop(frame::parse::<FromGuest>(&body));
                    drop(frame::parse::<ToShim>(&body));
                    drop(frame::parse::<FromShim>(&body));
                }
            }
        }
    }

    #[test]
    fn files_keep_their_bytes(content in prop::collection::vec(any::<u8>(), 0..100)) {
        let file = File { path: "/a".into(), content, mode: 0o600 };
        let text = serde_json::to_string(&file).unwrap();
        prop_assert_eq!(serde_json::from_str::<File>(&text).unwrap(), file);
    }
}

#[test]
fn long_data_becomes_several_frames_in_order() {
    let bytes: Vec<u8> = (0..100_000u32).map(|n| n as u8).collect();
    let mut out = Vec::new();
    frame::encode_data(&mut out, Channel::Stdout, 7, &bytes);
    let frames = decode(std::iter::once(out)).unwrap();
    assert_eq!(frames.len(), 4);
    let together: Vec<u8> = frames
        .into_iter()
        .flat_map(|frame| match frame {
            Frame::Data { channel: Channel::Stdout, stream: 7, bytes } => bytes,
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(together, bytes);
}

#[test]
fn a_hostile_length_is_refused_before_its_bytes_arrive() {
    let length = (MAX_FRAME as u32 + 1).to_le_bytes();
    assert!(matches!(decode(std::iter::once(length.to_vec())), Err(FrameError::TooLarge { .. })));
    assert!(matches!(decode(std::iter::once(vec![0; 4])), Err(FrameError::Truncated { .. })));
    assert!(matches!(decode(std::iter::once(vec![2, 0, 0, 0, 1, 9])), Err(FrameError::Truncated { .. })));
    assert!(matches!(decode(std::iter::once(vec![1, 0, 0, 0, 99])), Err(FrameError::UnknownTag { tag: 99 })));
}

#[test]
fn a_message_too_large_to_send_leaves_the_buffer_as_it_was() {
    let mut out = vec![1, 2, 3];
    let error = frame::encode_control(&mut out, &"x".repeat(MAX_FRAME)).unwrap_err();
    assert!(matches!(error, FrameError::TooLarge { .. }), "{error}");
    assert_eq!(out, [1, 2, 3]);
}

fn round_trip<M: Serialize + DeserializeOwned + PartialEq + std::fmt::Debug>(message: M) {
    let text = serde_json::to_vec(&message).unwrap();
    assert_eq!(frame::parse::<M>(&text).unwrap(), message);
}

#[test]
fn every_kind_of_message_round_trips() {
    let process =
        Process { args: vec!["sh".into()], terminal: Some(Terminal { rows: 1, columns: 2 }), ..Process::default() };
    round_trip(ToGuest::Hello(Versions::OURS));
    round_trip(ToGuest::Configure { main: process.clone() });
    round_trip(ToGuest::Stream { stream: 3, control: StreamControl::Start(process.clone()) });
    round_trip(ToShim::Stream { stream: 3, control: StreamControl::Resize(Terminal { rows: 3, columns: 4 }) });
    round_trip(ToShim::Request { request: 9, ask: Ask::Kill });
    round_trip(FromGuest::Stream { stream: 0, event: StreamEvent::Exit { code: 137, signal: Some(9) } });
    let launch = Launch {
        boot_id: "b".into(),
        cgroup: "atoll-0/machine-0".into(),
        network_namespace: "/run/netns/x".into(),
        hostname: "h".into(),
        layers: vec!["/l".into()],
        files: vec![],
        main: process,
        limits: Limits { memory_bytes: 1 << 40, cpus: 1, dedicated_cpus: false, pids: 10 },
        guest: "/g".into(),
    };
    round_trip(ToShim::Launch(Box::new(launch)));
    round_trip(FromShim::Machine(Phase::Ended(ExitRecord {
        boot_id: "b".into(),
        code: 1,
        signal: None,
        oom_killed: true,
        at_ms: 1,
        error: None,
    })));
}

#[test]
fn what_a_newer_peer_adds_is_ignored() {
    assert_eq!(frame::parse::<ToGuest>(br#"{"type":"set_clock","unix_ms":5}"#).unwrap(), ToGuest::Unknown);
    let stream = br#"{"type":"stream","stream":4,"control":{"do":"checkpoint","to":"/x"},"more":[1]}"#;
    assert_eq!(
        frame::parse::<ToGuest>(stream).unwrap(),
        ToGuest::Stream { stream: 4, control: StreamControl::Unknown }
    );
}

#[test]
fn a_connection_keeps_what_its_peer_does_not_take_yet() {
    let (near, mut far) = UnixStream::pair().unwrap();
    near.set_nonblocking(true).unwrap();
    let mut connection = Connection::new(near);
    let bytes = vec![7; 1_000_000];
    connection.send_data(Channel::Stdin, 1, &bytes);
    connection.flush().unwrap();
    assert!(connection.backlog() > 0, "a socket took a megabyte at once");
    let reader = std::thread::spawn(move || {
        let (mut received, mut chunk) = (0, [0; 65536]);
        while received < bytes.len() {
            received += far.read(&mut chunk).unwrap();
        }
        far.write_all(&encode(&[Frame::Control(b"1".to_vec())])).unwrap();
        far
    });
    while connection.backlog() > 0 {
        connection.flush().unwrap();
        std::thread::yield_now();
    }
    let far = reader.join().unwrap();
    let frame = loop {
        assert!(connection.fill().unwrap());
        if let Some(frame) = connection.next_frame().unwrap() {
            break frame;
        }
    };
    assert_eq!(frame, Frame::Control(b"1".to_vec()));
    drop(far);
    assert!(!connection.fill().unwrap());
}
