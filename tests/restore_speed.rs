//! Not part of the suite: prints how long a restore of a given snapshot takes.
use etcdvault::datadir::restore::{Expected, Options, Restore, Target};
use std::io::Read;

#[test]
#[ignore = "a measurement"]
fn speed() {
    let path = std::env::var("SNAPSHOT").expect("a path");
    let target = std::path::PathBuf::from(std::env::var("TARGET_DIR").expect("a path"));
    let begun = std::time::Instant::now();
    let options = Options {
        initial_cluster: "m1=http://127.0.0.1:1".into(),
        initial_cluster_token: "t".into(),
        targets: vec![Target {
            name: "m1".into(),
            data_dir: target,
            wal_dir: None,
            advertised_peer_urls: Vec::new(),
        }],
        ..Options::default()
    };
    let mut restore = Restore::begin(vault::durable::real(), options).expect("begin");
    let mut file = std::fs::File::open(path).expect("open");
    let mut chunk = vec![0; 1 << 20];
    loop {
        let read = file.read(&mut chunk).expect("read");
        if read == 0 {
            break;
        }
        restore.write(&chunk[..read]).expect("write");
    }
    let streamed = begun.elapsed();
    let restored = restore.finish(&Expected::default()).expect("finish");
    let status = std::fs::read_to_string("/proc/self/status").expect("status");
    let peak: Vec<_> =
        status.lines().filter(|l| l.starts_with("VmHWM") || l.starts_with("RssAnon")).collect();
    eprintln!(
        "streamed {streamed:?}, all {:?}, records {}, hash {}, {peak:?}",
        begun.elapsed(),
        restored.scan.records,
        restored.hash
    );
}
