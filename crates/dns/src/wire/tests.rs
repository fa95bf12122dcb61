use proptest::prelude::*;

use super::*;

/// A question as clients write it.
fn question(name: &str, kind: Type, extra: &[u8], additional: u16) -> Vec<u8> {
    let mut message = vec![0x12, 0x34, 0x01, 0x00, 0, 1, 0, 0, 0, 0];
    message.extend(additional.to_be_bytes());
    message.extend(name.parse::<Name>().unwrap().wire());
    message.extend(kind.0.to_be_bytes());
    message.extend(CLASS_IN.to_be_bytes());
    message.extend(extra);
    message
}

/// An OPT record for answers of `size` bytes, with a /24 of IPv4 as the client's subnet.
fn opt(size: u16) -> Vec<u8> {
    let mut record = vec![0, 0, 41];
    record.extend(size.to_be_bytes());
    record.extend([0, 0, 0x80, 0, 0, 11, 0, 8, 0, 7, 0, 1, 24, 0, 192, 0, 2]);
    record
}

#[test]
fn a_question_is_read_with_all_that_the_client_says() {
    let message = question("WWW.example.org", Type::AAAA, &opt(4096), 1);
    let query = Query::read(&message).unwrap();
    assert_eq!((query.id, query.kind, query.class), (0x1234, Type::AAAA, CLASS_IN));
    assert_eq!(query.name, "www.example.org".parse().unwrap());
    assert!(query.recursion_desired && query.wants_signatures());
    assert_eq!(query.edns.unwrap().subnet, Some(Subnet { address: [192, 0, 2, 0].into(), prefix: 24 }));
    assert_eq!((query.limit(Transport::Udp), query.limit(Transport::Tcp)), (MAX_UDP, MAX_TCP));
    let plain = question("www.example.org", Type::A, &[], 0);
    assert_eq!(Query::read(&plain).unwrap().limit(Transport::Udp), MIN_UDP);
}

#[test]
fn what_is_no_question_is_refused_or_passed_over() {
    let sound = question("a.example", Type::A, &[], 0);
    let changed = |at: usize, byte: u8| {
        let mut message = sound.clone();
        message[at] = byte;
        Query::read(&message).err()
    };
    let refused = |code| Some(Unanswerable::Refused { id: 0x1234, flags: 0x0100, code });
    assert_eq!(Query::read(&sound).err(), None);
    assert_eq!(changed(2, 0x81), Some(Unanswerable::Silence), "an answer");
    assert_eq!(changed(5, 2), refused(Code::FormErr), "two questions");
    assert_eq!(changed(12, 0xc0), refused(Code::FormErr), "a pointer as the name");
    assert_eq!(changed(12, 60), refused(Code::FormErr), "a label beyond the end");
    assert_eq!(changed(11, 1), refused(Code::FormErr), "a record that is not there");
    let status = changed(2, 0x11).unwrap();
    assert_eq!(status, Unanswerable::Refused { id: 0x1234, flags: 0x1100, code: Code::NotImp });
    let mut out = Vec::new();
    assert!(status.write(&mut out));
    assert_eq!(out, [0x12, 0x34, 0x91, 0x04, 0, 0, 0, 0, 0, 0, 0, 0]);
    assert_eq!(Query::read(&sound[..11]).err(), Some(Unanswerable::Silence));
    let twice = question("a.example", Type::A, &[opt(512), opt(512)].concat(), 2);
    assert_eq!(Query::read(&twice).err(), refused(Code::FormErr), "two OPT records");
}

#[test]
fn an_answer_points_to_the_question_and_stops_when_it_is_full() {
    let message = question("a.example.org", Type::A, &opt(512), 1);
    let query = Query::read(&message).unwrap();
    let mut out = Vec::new();
    let mut reply = Reply::new(&query, Transport::Udp, &mut out);
    reply.record(&query.name, Type::A, 60, &[192, 0, 2, 1]).unwrap();
    reply.authority();
    reply
        .record(&"example.org".parse().unwrap(), Type::NS, 60, "ns.example.net".parse::<Name>().unwrap().wire())
        .unwrap();
    let full = (0..100).find(|_| reply.record(&query.name, Type::A, 60, &[192, 0, 2, 1]) == Err(Full));
    assert!(full.is_some());
    reply.scope(24);
    reply.finish(Code::NoError);
    assert!(out.len() <= 512 && out.len() > 480, "{} bytes", out.len());
    assert_eq!(&out[31..33], [0xc0, 0x0c], "the owner is the question's name");
    assert_eq!(&out[47..49], [0xc0, 0x0e], "the zone is its end");
    let counts: usize = [6, 8, 10].map(|at| usize::from(u16_at(&out, at).unwrap())).iter().sum();
    let records: Vec<_> = Records::new(&out, 31, counts).map(Result::unwrap).collect();
    let last = records.last().unwrap();
    assert_eq!((last.kind, last.data_at + last.data.len()), (Type::OPT, out.len()));
    assert_eq!(last.data, [0, 8, 0, 7, 0, 1, 24, 24, 192, 0, 2]);
}

#[test]
fn names_are_ordered_as_zones_are_signed() {
    // The example of RFC 4034.
    let sorted = ["example", "a.example", "yljkjljk.a.example", "Z.a.example", "zABC.a.EXAMPLE", "z.example"];
    let names: Vec<Name> = sorted.iter().map(|name| name.parse().unwrap()).collect();
    assert!(names.is_sorted_by(|a, b| a.canonical_cmp(b).is_lt()));
}

#[test]
fn names_know_their_place() {
    let name: Name = "a.b.example.org".parse().unwrap();
    let zone: Name = "Example.org.".parse().unwrap();
    assert!(name.is_within(&zone) && zone.is_within(&zone) && zone.is_within(&Name::ROOT));
    assert!(!zone.is_within(&name) && !"notexample.org".parse::<Name>().unwrap().is_within(&zone));
    assert_eq!((name.below(&zone).as_deref(), zone.below(&zone).as_deref()), (Some("a.b"), Some("")));
    assert_eq!(name.parent().parent(), zone);
    assert_eq!(zone.child(b"b").unwrap().child(b"A").unwrap(), name);
    assert_eq!((Name::ROOT.to_string(), zone.to_string()), (".".into(), "example.org.".into()));
    for bad in ["", "a..b", ".a", "a b", &"x".repeat(64), &vec!["x".repeat(63); 4].join(".")] {
        assert!(bad.parse::<Name>().is_err(), "{bad} was accepted");
    }
}

proptest! {
    #[test]
    fn reading_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        crate::fuzz::query(&bytes);
        for (at, _) in bytes.iter().enumerate() {
            if let Ok((name, after)) = Name::read(&bytes, at) {
                prop_assert!(after > at && after <= bytes.len() && name.wire().len() <= MAX_NAME);
            }
        }
    }

    #[test]
    fn a_mangled_question_never_panics(
        kind: u16, size: u16, at in 0_usize..60, byte: u8, cut in 0_usize..80,
    ) {
        let mut message = question("a.b.example.org", Type(kind), &opt(size), 1);
        if let Some(place) = message.get_mut(at) {
            *place = byte;
        }
        message.truncate(message.len().saturating_sub(cut));
        crate::fuzz::query(&message);
    }

    #[test]
    fn a_name_reads_back(labels in proptest::collection::vec("[a-z0-9_-]{1,20}", 1..6)) {
        let text = labels.join(".");
        let name: Name = text.parse().unwrap();
        prop_assert_eq!(Name::read(name.wire(), 0), Ok((name, name.wire().len())));
        prop_assert_eq!(name.to_string(), format!("{text}."));
        prop_assert_eq!(name.below(&Name::ROOT), Some(text));
        prop_assert_eq!(name.label_count(), labels.len());
    }
}
