use chrono::TimeZone as _;
use proptest::prelude::*;
use serde_json::json;

use super::*;

fn sample() -> Manifest {
    let id: BackupId = "01JD2X9A000000000000000000".parse().unwrap();
    let started = Utc.timestamp_millis_opt(1_795_309_323_004).unwrap();
    Manifest {
        id,
        kind: Kind::new("snapshot").unwrap(),
        cluster: ClusterName::new("prod").unwrap(),
        lineage: LineageName::new("cdf818194e3a8c32").unwrap(),
        sequence: u64::MAX,
        started,
        finished: started + chrono::TimeDelta::milliseconds(1500),
        tool: Tool { name: "etcdvault".into(), version: "0.1.0".into() },
        proof: Proof { state: ProofState::NotProven, reasons: vec!["compacted".into()] },
        labels: [("a".to_owned(), "é".to_owned())].into(),
        objects: vec![ObjectRecord {
            role: Role::new("snapshot").unwrap(),
            key: format!("clusters/prod/cdf818194e3a8c32/objects/{id}/snapshot.db.zst.age"),
            stored_size: 10,
            stored_sha256: Sha256::of(b"stored"),
            plain_size: 20,
            plain_sha256: Sha256::of(b"plain"),
            codec: Codec::ZstdFrames,
            encryption: ObjectEncryption::AgeRecipients { recipients: vec!["age1x".into()] },
            frames: 1,
            frame_table_sha256: Sha256::of(b"table"),
        }],
        content_schema: ContentSchema { name: "etcd-snapshot".into(), version: 3 },
        content: json!({"revision": 7, "ratio": 0.5, "nested": {"list": [null, true]}}),
    }
}

fn json_of(manifest: &Manifest) -> Value {
    serde_json::from_slice(&manifest.encode().unwrap().1).unwrap()
}

fn parse(value: &Value) -> Result<Manifest, ManifestError> {
    Manifest::parse(&serde_json::to_vec(value).unwrap())
}

#[test]
fn manifests_read_back() {
    let manifest = sample();
    let (key, bytes) = manifest.encode().unwrap();
    assert_eq!(Manifest::decode(&key, &bytes).unwrap(), manifest);
    assert_eq!(key.to_string().parse::<ManifestKey>().unwrap(), key);
    let text = String::from_utf8(bytes).unwrap();
    assert!(text.contains("\"started\": \"2026-11-22T01:02:03.004Z\""), "{text}");
    assert!(text.starts_with("{\n  \"format\": {\n    \"version\": 1,\n"), "{text}");
}

#[test]
fn a_manifest_belongs_to_its_name() {
    let (key, bytes) = sample().encode().unwrap();
    let mut others = Vec::new();
    let id = "01JD2X9B000000000000000000".parse().unwrap();
    others.push(ManifestKey { id, ..key.clone() });
    others.push(ManifestKey { sequence: 7, ..key.clone() });
    others.push(ManifestKey { kind: Kind::new("other").unwrap(), ..key.clone() });
    others.push(ManifestKey { taken: key.taken + chrono::TimeDelta::seconds(1), ..key.clone() });
    let cluster = ClusterName::new("other").unwrap();
    others.push(ManifestKey { place: Place { cluster, ..key.place.clone() }, ..key.clone() });
    for other in others {
        let error = Manifest::decode(&other, &bytes).unwrap_err();
        assert!(matches!(error, ManifestError::NameDisagrees { .. }), "{error:?}");
    }
    let other = ManifestKey { digest: [0; 8], ..key };
    assert!(matches!(Manifest::decode(&other, &bytes), Err(ManifestError::WrongDigest { .. })));
}

#[test]
fn newer_formats_are_refused_when_they_must_be() {
    let mut value = json_of(&sample());
    value["format"] = json!({"version": 7, "oldest_reader": 5});
    assert!(matches!(parse(&value), Err(ManifestError::TooNew { version: 7, needs: 5 })));
    let text = parse(&value).unwrap_err().to_string();
    assert_eq!(
        text,
        "the manifest was written in format 7 and needs a reader of format 5; this one reads format 1"
    );
    // What a newer format need not be understood for.
    value["format"] = json!({"version": 7, "oldest_reader": 1});
    value["new_member"] = json!([1]);
    value["objects"][0]["new_member"] = json!("x");
    assert_eq!(parse(&value).unwrap(), sample());
    value["format"] = json!({"version": 1, "oldest_reader": 1});
    assert!(matches!(parse(&value), Err(ManifestError::Member { .. })));
    for format in [
        json!(null),
        json!({}),
        json!({"version": 1}),
        json!({"version": -1, "oldest_reader": 1}),
        json!({"version": 1, "oldest_reader": 2}),
        json!({"version": 0, "oldest_reader": 0}),
        json!({"version": "1", "oldest_reader": "1"}),
        json!({"version": 1.5, "oldest_reader": 1}),
    ] {
        value["format"] = format;
        assert!(matches!(parse(&value), Err(ManifestError::Document(_))), "{value}");
    }
}

#[test]
fn hostile_values_are_refused() {
    let good = json_of(&sample());
    let long = "x".repeat(2000);
    let set = |pointer: &str, value: Value| {
        let mut changed = good.clone();
        *changed.pointer_mut(pointer).expect(pointer) = value;
        changed
    };
    let key = |name: &str| set("/objects/0/key", json!(name));
    let folder = "clusters/prod/cdf818194e3a8c32/objects/01JD2X9A000000000000000000";
    let mut cases = vec![
        key("../../etc/passwd"),
        key("/etc/passwd"),
        key(&format!("{folder}/../x.age")),
        key(&format!("{folder}/a/b.age")),
        key("clusters/prod/cdf818194e3a8c32/objects/01JD2X9B000000000000000000/x.age"),
        key("vault.json"),
        key(&format!("{folder}/x")),
        key(&format!("{folder}/.age")),
        key(&format!("{folder}/{long}.age")),
        set("/objects/0/stored_size", json!(u64::MAX)),
        set("/objects/0/plain_size", json!(u64::MAX)),
        set("/objects/0/plain_size", json!(1u64 << 40)),
        set("/objects/0/stored_size", json!(-1)),
        set("/objects/0/stored_size", json!(1.5)),
        set("/objects/0/frames", json!(0)),
        set("/objects/0/frames", json!(u64::MAX)),
        set("/objects/0/stored_sha256", json!("ABC")),
        set("/objects/0/codec", json!("gzip")),
        set("/objects/0/role", json!("a b")),
        set("/objects/0/encryption", json!({"mode": "rot13"})),
        set("/objects/0/encryption", json!({"mode": "age-recipients", "recipients": []})),
        set("/objects/0/encryption", json!({"mode": "none"})),
        set("/objects", json!(vec![good["objects"][0].clone(); 2])),
        set("/objects", json!({})),
        set("/id", json!("01jd2x9a000000000000000000")),
        set("/cluster", json!("../x")),
        set("/lineage", json!("")),
        set("/sequence", json!("7")),
        set("/started", json!("2026-11-22T01:02:03Z")),
        set("/started", json!("2026-11-22T01:02:03.004+00:00")),
        set("/started", json!("12026-11-22T01:02:03.004Z")),
        set("/finished", json!("1969-12-31T23:59:59.999Z")),
        set("/tool/name", json!("")),
        set("/tool/name", json!("a\u{1b}[2J")),
        set("/labels", json!({"\u{202e}": "x"})),
        set("/labels", json!({"x": long})),
        set("/proof/state", json!("PROVEN")),
        set("/proof/reasons", json!(vec!["x"; 101])),
        set("/content", json!({"deep": {"text": "\u{9b}31m"}})),
        set("/content_schema/version", json!(1u64 << 40)),
        json!(null),
        json!([]),
        json!({}),
    ];
    let mut missing = good.clone();
    missing.as_object_mut().unwrap().remove("proof");
    cases.push(missing);
    for case in cases {
        let error = parse(&case).expect_err(&case.to_string());
        let mut texts = vec![error.to_string()];
        let mut source = std::error::Error::source(&error);
        while let Some(next) = source {
            texts.push(next.to_string());
            source = next.source();
        }
        for text in texts {
            assert!(!text.chars().any(crate::document::is_harmful), "{text:?}");
        }
    }
    parse(&good).unwrap();
    let many: Vec<Value> = (0..1001)
        .map(|number| {
            let mut object = good["objects"][0].clone();
            object["key"] = json!(format!("{folder}/{number}.age"));
            object["role"] = json!(format!("node-{number}"));
            object
        })
        .collect();
    parse(&set("/objects", json!(many[..500]))).unwrap();
    parse(&set("/objects", json!(many))).unwrap_err();
}

#[test]
fn what_could_not_be_read_back_is_not_written() {
    let mut manifest = sample();
    manifest.labels.insert("x".into(), "\n".into());
    manifest.encode().unwrap_err();
    let mut manifest = sample();
    manifest.content = json!("x".repeat(2 << 20));
    manifest.encode().unwrap_err();
    let mut manifest = sample();
    manifest.cluster = ClusterName::new("other").unwrap();
    manifest.encode().unwrap_err();
    // Finer times than are kept.
    let mut manifest = sample();
    manifest.started += chrono::TimeDelta::nanoseconds(999_999);
    let (key, bytes) = manifest.encode().unwrap();
    assert_eq!(Manifest::decode(&key, &bytes).unwrap().started, sample().started);
}

fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        ".{0,20}".prop_map(Value::from),
        Just(json!("clusters/prod/x")),
    ];
    leaf.prop_recursive(4, 20, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::btree_map(".{0,8}", inner, 0..4)
                .prop_map(|members| Value::Object(members.into_iter().collect())),
        ]
    })
}

proptest! {
    #[test]
    fn no_member_makes_the_reader_panic(
        at in any::<prop::sample::Index>(),
        value in any_json(),
    ) {
        let good = json_of(&sample());
        let pointers = pointers(&good);
        let pointer = &pointers[at.index(pointers.len())];
        let mut changed = good;
        *changed.pointer_mut(pointer).unwrap() = value;
        if let Ok(manifest) = parse(&changed) {
            // What is read can be written, and reads back the same.
            let (key, bytes) = manifest.encode().unwrap();
            prop_assert_eq!(Manifest::decode(&key, &bytes).unwrap(), manifest);
        }
    }

    #[test]
    fn no_bytes_make_the_reader_panic(
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
    ) {
        let (key, mut bytes) = sample().encode().unwrap();
        for (at, value) in changes {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        let _ = Manifest::parse(&bytes);
        let _ = Manifest::decode(&key, &bytes);
    }
}

/// Every place in a JSON value.
fn pointers(value: &Value) -> Vec<String> {
    let mut found = vec![String::new()];
    match value {
        Value::Object(members) => {
            for (name, value) in members {
                found.extend(pointers(value).into_iter().map(|rest| format!("/{name}{rest}")));
            }
        }
        Value::Array(items) => {
            for (number, value) in items.iter().enumerate() {
                found.extend(pointers(value).into_iter().map(|rest| format!("/{number}{rest}")));
            }
        }
        _ => {}
    }
    found
}
