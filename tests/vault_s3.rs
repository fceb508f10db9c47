//! A vault in a bucket, through the program: what `init` says of the store, and that
//! the rights the guide gives to a node are all that its commands need.

#[path = "common/program.rs"]
mod common;

use harness::cli::Cli;
use harness::etcd::Cluster;
use harness::s3::{Access, FaultyS3, Minio, Op};
use serde_json::Value;

use common::{fill, listed, program, says};

const BUCKET: &str = "vaults";
const VAULT: &str = "s3://vaults/a/prefix";

fn on_s3(access: &Access) -> Cli {
    let cli = program()
        .vault(VAULT)
        .env("ETCDVAULT_S3_ENDPOINT_URL", &access.url)
        .env("AWS_ACCESS_KEY_ID", &access.access_key)
        .env("AWS_SECRET_ACCESS_KEY", &access.secret_key)
        .env("AWS_EC2_METADATA_DISABLED", "true");
    match &access.session_token {
        Some(token) => cli.env("AWS_SESSION_TOKEN", token),
        None => cli,
    }
}

/// A node's credentials are good for new backups of its own cluster. Every command that
/// writes or reads those works with them; without the cluster's name it says what to do.
#[tokio::test(flavor = "multi_thread")]
async fn append_only_credentials_are_enough() {
    let minio = Minio::start().await.unwrap();
    minio.access().create_bucket(BUCKET).await.unwrap();
    let cluster = Cluster::builder("3.6").start().await.unwrap();
    fill(&cluster, 12).await;
    let admin = on_s3(minio.access()).cluster(&cluster);
    admin.run(["init", "--no-encryption"]).await.unwrap().expect(0);
    // What else the vault holds is none of the node's business.
    admin.run(["backup", "--cluster", "dev"]).await.unwrap().expect(0);

    let policy = admin.run(["init", "--print-policy", "prod"]).await.unwrap().expect(0).text();
    let access = minio.restricted(&policy).await.unwrap();
    let node = on_s3(&access).cluster(&cluster);
    let root = tempfile::tempdir().unwrap();
    let path = |name: &str| root.path().join(name).to_str().unwrap().to_owned();
    let (export, restored) = (path("export.db"), path("restored"));
    let reading: [&[&str]; 7] = [
        &["list"],
        &["show", "latest"],
        &["verify", "latest"],
        &["verify", "--all"],
        &["inspect", "latest"],
        &["export", "latest", "-o", &export],
        &["restore", "data-dir", "latest", "--data-dir", &restored],
    ];
    for args in std::iter::once(&["backup"][..]).chain(reading) {
        let ran = node.run(args).await.unwrap().expect(40);
        says(&ran, &["lack s3:ListBucket", "hint: ", "--cluster NAME"]);
    }

    fn prod<'a>(args: &[&'a str]) -> Vec<&'a str> {
        [args, &["--cluster", "prod"]].concat()
    }
    let first = node.run(prod(&["backup", "--json"])).await.unwrap().expect(0).json();
    assert_eq!(first["proof"]["state"], "proven", "{first}");
    for args in reading {
        node.run(prod(args)).await.unwrap().expect(0);
    }
    let ran = node.run(prod(&["verify", "latest"])).await.unwrap().expect(0);
    says(&ran, &["no receipt was written", "lack s3:PutObject"]);
    let start: String = first["id"].as_str().unwrap().chars().take(20).collect();
    let shown = node.run(prod(&["show", &start, "--json"])).await.unwrap().expect(0).json();
    assert_eq!((&shown["id"], &shown["cluster"]), (&first["id"], &"prod".into()), "{shown}");
    node.run(prod(&["import", &export])).await.unwrap().expect(0);

    // The name may come from the environment; and it opens no other cluster.
    let named = node.clone().env("ETCDVAULT_CLUSTER", "prod");
    named.run(["backup"]).await.unwrap().expect(0);
    assert_eq!(listed(&named).await, 3);
    for args in [&["list"][..], &["backup"], &["verify", "--all"]] {
        let ran = node.run([args, &["--cluster", "dev"]].concat()).await.unwrap().expect(40);
        says(&ran, &["lack s3:", "hint: check"]);
        assert!(!ran.stderr.contains("--cluster NAME"), "{ran}");
    }
    assert_eq!(listed(&admin).await, 4);
}

/// What `init` found out is said, written down, and used by everything that follows.
#[tokio::test(flavor = "multi_thread")]
async fn init_says_and_records_what_the_store_honours() {
    let minio = Minio::start().await.unwrap();
    minio.access().create_bucket(BUCKET).await.unwrap();
    let cli = on_s3(minio.access()).env("AWS_REGION", "us-east-1");
    let said = cli.run(["init", "--no-encryption"]).await.unwrap().expect(0).text();
    for line in [
        "  not encrypted\n",
        "  on S3 (MinIO), region us-east-1\n",
        "  the store refuses to overwrite\n",
        "  the store checks uploads against crc64nvme\n",
        "    etcdvault init s3://vaults/a/prefix --print-policy CLUSTER\n",
        "next: etcdvault backup --vault s3://vaults/a/prefix\n",
    ] {
        assert!(said.contains(line), "{line:?}: {said}");
    }
    let object = minio.access().client().get_object().bucket(BUCKET).key("a/prefix/vault.json");
    let bytes = object.send().await.unwrap().body.collect().await.unwrap().into_bytes();
    let store = &serde_json::from_slice::<Value>(&bytes).unwrap()["store"];
    for (field, value) in [
        ("kind", "s3".into()),
        ("put_new", true.into()),
        ("complete_new", true.into()),
        ("checksum", "crc64nvme".into()),
        ("multipart_checksum", true.into()),
        ("ordered", true.into()),
        ("region", "us-east-1".into()),
        ("server", "MinIO".into()),
        ("left", Value::Array(Vec::new())),
    ] {
        assert_eq!(store[field], value, "{field}: {store}");
    }

    // The record is used: where the store was seen to refuse a taken name nothing is
    // looked for before it is written, where the record says otherwise it is.
    let server = FaultyS3::start().await.unwrap();
    server.access().create_bucket(BUCKET).await.unwrap();
    let cluster = Cluster::builder("3.6").start().await.unwrap();
    let cli = on_s3(server.access()).cluster(&cluster);
    cli.run(["init", "--no-encryption"]).await.unwrap().expect(0);
    let looks = async || {
        server.forget();
        cli.run(["backup"]).await.unwrap().expect(0);
        server.count(Op::Head)
    };
    looks().await;
    let trusted = looks().await;
    let client = server.access().client();
    let object = client.get_object().bucket(BUCKET).key("a/prefix/vault.json").send().await;
    let bytes = object.unwrap().body.collect().await.unwrap().into_bytes();
    let copied = client.put_object().bucket(BUCKET).key("a/prefix/vault.json");
    copied.body(as_of_a_directory(&bytes).into()).send().await.unwrap();
    let distrusted = looks().await;
    assert!(distrusted > trusted, "{distrusted} looks against {trusted}");
}

/// The same vault as if it had been made in a directory and copied into the bucket.
fn as_of_a_directory(bytes: &[u8]) -> Vec<u8> {
    let mut file: Value = serde_json::from_slice(bytes).unwrap();
    file["store"] = serde_json::json!({"kind": "directory", "put_new": true});
    file.as_object_mut().unwrap().remove("sha256");
    vault::document::seal(&file).unwrap()
}

/// The policy and the lifecycle rule, to paste as they come; nothing is made, and no
/// store is asked.
#[tokio::test]
async fn policies_are_printed() {
    let port = harness::port::Port::reserve().unwrap();
    let cli = program().vault(VAULT);
    let print = async |cli: &Cli, args: &[&str]| {
        let ran = cli.run([&["init"], args].concat()).await.unwrap().expect(0);
        assert_eq!(ran.stderr, "", "{ran}");
        ran.json()
    };
    let sids = |policy: &Value| -> Vec<String> {
        let statements = policy["Statement"].as_array().unwrap();
        statements.iter().map(|one| one["Sid"].as_str().unwrap().to_owned()).collect()
    };
    let aws = print(&cli, &["--print-policy", "prod"]).await;
    assert!(sids(&aws).contains(&"NoOverwrite".to_owned()), "{aws}");
    assert!(aws.to_string().contains("arn:aws:s3:::vaults/a/prefix/clusters/prod/*"), "{aws}");
    // Nobody listens there.
    let url = format!("http://127.0.0.1:{}", port.number());
    let plain = cli.clone().env("ETCDVAULT_S3_ENDPOINT_URL", url);
    let plain = print(&plain, &["--print-policy", "prod", "--json"]).await;
    assert!(!sids(&plain).contains(&"NoOverwrite".to_owned()), "{plain}");
    assert_eq!(sids(&aws)[..sids(&plain).len()], sids(&plain));
    let rule = print(&cli, &["--print-lifecycle"]).await;
    assert_eq!(rule["Rules"][0]["Filter"]["Prefix"], "a/prefix/", "{rule}");

    for (vault, args, texts) in [
        (VAULT, &["--print-policy", "a/b"][..], &["no policy was printed", "cluster name"][..]),
        (VAULT, &["--print-policy", "*"], &["no policy was printed"]),
        ("/srv/vault", &["--print-policy", "prod"], &["is a directory", "hint: ", "s3://"]),
        ("/srv/vault", &["--print-lifecycle"], &["is a directory"]),
        (VAULT, &["--print-policy", "prod", "--print-lifecycle"], &["cannot be used with"]),
        (VAULT, &["--print-policy", "prod", "--no-encryption"], &["cannot be used with"]),
    ] {
        let ran = program().vault(vault).run([&["init"], args].concat()).await.unwrap().expect(2);
        says(&ran, texts);
        assert_eq!(ran.stdout, b"", "{ran}");
    }
}
