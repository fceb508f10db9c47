use super::*;

#[test]
fn record_keys_read_and_write_both_forms() {
    for key in [
        RecordKey { main: 7, sub: 0, tombstone: false },
        RecordKey { main: i64::MAX, sub: 300, tombstone: true },
    ] {
        let bytes = key.to_bytes();
        assert_eq!(bytes.len(), if key.tombstone { 18 } else { 17 });
        assert_eq!(RecordKey::parse(&bytes), Ok(key));
    }
    assert_eq!(RecordKey::parse(&[0; 17]), Err(SchemaError::Revision(17)));
    assert_eq!(RecordKey::parse(b"short"), Err(SchemaError::Revision(5)));
    let mut other = RecordKey { main: 1, sub: 2, tombstone: true }.to_bytes();
    other[17] = b'x';
    assert_eq!(RecordKey::parse(&other), Err(SchemaError::Revision(18)));
}

#[test]
fn key_values_decode_with_every_field_and_without_any() {
    let bytes = b"\x0a\x03foo\x10\x02\x18\x96\x01\x20\x03\x2a\x02hi\x30\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01";
    let kv = KeyValue::decode(bytes).unwrap();
    assert_eq!(
        kv,
        KeyValue {
            key: b"foo",
            create_revision: 2,
            mod_revision: 150,
            version: 3,
            value: b"hi",
            lease: -1,
        }
    );
    assert_eq!(KeyValue::decode(b""), Ok(KeyValue::default()));
    for end in 1..bytes.len() {
        // Ends of fields are whole messages; anything else is refused.
        let whole = [5, 7, 10, 12, 16].contains(&end);
        assert_eq!(KeyValue::decode(&bytes[..end]).is_ok(), whole, "{end}");
    }
    assert!(KeyValue::decode(b"\x08\x01").is_err(), "the key is no number");
    assert!(KeyValue::decode(b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01").is_err());
    assert!(KeyValue::decode(b"\x10\xff\xff\xff\xff\xff\xff\xff\xff\xff\x02").is_err());
    assert!(KeyValue::decode(b"\x00").is_err(), "field 0");
}

#[test]
fn content_takes_each_bucket() {
    let mut content = Content::default();
    let revision = |main| RecordKey { main, sub: 0, tombstone: false }.to_bytes();
    content.add(b"meta", b"consistent_index", &9_u64.to_be_bytes()).unwrap();
    content.add(b"meta", b"term", &3_u64.to_be_bytes()).unwrap();
    content.add(b"meta", b"finishedCompactRev", &revision(5)).unwrap();
    content.add(b"meta", b"scheduledCompactRev", &revision(8)).unwrap();
    content.add(b"lease", &77_i64.to_be_bytes(), b"\x08\x4d\x10\x3c").unwrap();
    content.add(b"alarm", b"\x08\x05\x10\x01", b"").unwrap();
    content
        .add(b"members", b"4d2", br#"{"id":1234,"peerURLs":["http://10.0.0.1:2380"],"name":"m1"}"#)
        .unwrap();
    content.add(b"members_removed", b"8e9e05c52164694d", b"removed").unwrap();
    content.add(b"cluster", b"clusterVersion", b"3.5.0").unwrap();
    content.add(b"cluster", b"downgrade", br#"{"target-version":"","enabled":false}"#).unwrap();
    content.add(b"auth", b"authEnabled", &[1]).unwrap();
    content.add(b"authUsers", b"root", b"\x0a\x04root\x1a\x04root").unwrap();

    assert_eq!(content.compact_revision(), Some(8));
    assert_eq!((content.revision(Some(6)), content.revision(Some(12))), (8, 12));
    assert_eq!(Content::default().revision(None), 1);
    assert_eq!(content.alarms, [Alarm { member: 5, kind: AlarmKind::NoSpace }]);
    assert_eq!(content.members[0].name, "m1");
    assert_eq!(content.members_removed, [crate::types::HexId(0x8e9e_05c5_2164_694d)]);
    assert_eq!((content.leases, content.users, content.auth_enabled), (1, 1, true));
    assert_eq!(content.downgrade_target, None);
    assert_eq!(content.version_evidence(), VersionEvidence::ClusterVersion("3.5.0".into()));

    assert!(content.add(b"meta", b"term", b"short").is_err());
    assert!(content.add(b"lease", &78_i64.to_be_bytes(), b"\x08\x4d").is_err());
    assert!(content.add(b"members", b"4d3", br#"{"id":1234}"#).is_err());
    assert!(content.add(b"members", b"4d2", b"{").is_err());
    assert_eq!(content.members.len(), 1);
}
