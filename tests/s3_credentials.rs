//! Where the credentials of a bucket come from when neither variables nor profiles hold
//! any: each service that gives them out is played on loopback, by the protocol of the
//! SDK, and gives those of the store. The chain is the SDK's; this holds what `docs/s3.md`
//! promises of it, through the program.

#[path = "common/program.rs"]
mod common;

use std::net::Ipv4Addr;
use std::path::Path;
use std::sync::{Arc, Mutex};

use harness::cli::Ran;
use harness::s3::{Access, FaultyS3};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

use common::{program, says};

const BUCKET: &str = "vaults";
/// No request of these protocols is longer.
const LONGEST: usize = 64 * 1024;
const TOKEN: &str = "a-token-that-is-not-told";

/// A request, as much of it as the tests look at.
#[derive(Debug, Clone)]
struct Request {
    method: String,
    path: String,
    /// Names in lower case.
    head: String,
    body: String,
}

/// One that gives out credentials; stopped on drop.
struct Giver {
    url: String,
    seen: Arc<Mutex<Vec<Request>>>,
    listening: JoinHandle<()>,
}

impl Drop for Giver {
    fn drop(&mut self) {
        self.listening.abort();
    }
}

impl Giver {
    /// Answers by `answer`: status and body.
    async fn start(answer: impl Fn(&Request) -> (u16, String) + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let seen = Arc::new(Mutex::new(Vec::new()));
        let (answer, log) = (Arc::new(answer), seen.clone());
        let listening = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (answer, log) = (answer.clone(), log.clone());
                tokio::spawn(async move { serve(stream, &*answer, &log).await });
            }
        });
        Self { url, seen, listening }
    }

    fn seen(&self) -> Vec<Request> {
        self.seen.lock().unwrap().clone()
    }
}

/// One request and its answer, then the connection is closed.
async fn serve(
    mut stream: TcpStream,
    answer: &(dyn Fn(&Request) -> (u16, String) + Send + Sync),
    log: &Mutex<Vec<Request>>,
) -> Option<()> {
    let mut bytes = Vec::new();
    let end = loop {
        if let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") {
            break end;
        }
        if bytes.len() > LONGEST || stream.read_buf(&mut bytes).await.ok()? == 0 {
            return None;
        }
    };
    let head = String::from_utf8_lossy(&bytes[..end]).into_owned();
    let (first, fields) = head.split_once("\r\n").unwrap_or((&head, ""));
    let mut words = first.split(' ').map(str::to_owned);
    let (method, path) = (words.next()?, words.next()?);
    let fields: String = fields
        .lines()
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| format!("{}: {}\n", name.to_lowercase(), value.trim()))
        .collect();
    let length = fields.lines().find_map(|line| line.strip_prefix("content-length: "));
    let length: usize = length.map_or(Some(0), |length| length.parse().ok())?;
    while bytes.len() < end + 4 + length.min(LONGEST) {
        if stream.read_buf(&mut bytes).await.ok()? == 0 {
            return None;
        }
    }
    let body = String::from_utf8_lossy(&bytes[end + 4..]).into_owned();
    let request = Request { method, path, head: fields, body };
    let (status, text) = answer(&request);
    log.lock().unwrap().push(request);
    let answer = format!(
        "HTTP/1.1 {status} Answer\r\ncontent-length: {}\r\nconnection: close\r\n\
         x-aws-ec2-metadata-token-ttl-seconds: 21600\r\n\r\n{text}",
        text.len()
    );
    stream.write_all(answer.as_bytes()).await.ok()
}

/// What the container's endpoint and the machine's metadata service answer.
fn document(access: &Access) -> String {
    format!(
        r#"{{"Code": "Success", "Type": "AWS-HMAC", "AccessKeyId": "{}", "SecretAccessKey": "{}",
           "Token": "session", "Expiration": "2099-01-01T00:00:00Z",
           "LastUpdated": "2026-01-01T00:00:00Z"}}"#,
        access.access_key, access.secret_key
    )
}

/// What STS answers to `action`.
fn assumed(access: &Access, action: &str) -> String {
    format!(
        "<{action}Response xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\"><{action}Result>\
         <Credentials><AccessKeyId>{}</AccessKeyId><SecretAccessKey>{}</SecretAccessKey>\
         <SessionToken>session</SessionToken><Expiration>2099-01-01T00:00:00Z</Expiration>\
         </Credentials><AssumedRoleUser><AssumedRoleId>AROA:x</AssumedRoleId>\
         <Arn>arn:aws:sts::123456789012:assumed-role/writer/x</Arn></AssumedRoleUser>\
         </{action}Result><ResponseMetadata><RequestId>1</RequestId></ResponseMetadata>\
         </{action}Response>",
        access.access_key, access.secret_key
    )
}

/// Lists the backups with nothing but `variables` to get credentials from.
async fn list(access: &Access, home: &Path, variables: &[(&str, &str)]) -> Ran {
    let mut cli = program()
        .vault(format!("s3://{BUCKET}/a"))
        .env("ETCDVAULT_S3_ENDPOINT_URL", &access.url)
        .env("HOME", home);
    for (name, value) in variables {
        cli = cli.env(*name, *value);
    }
    let ran = cli.run(["list"]).await.unwrap();
    for secret in [access.secret_key.as_str(), TOKEN] {
        assert!(!ran.text().contains(secret) && !ran.stderr.contains(secret), "{ran}");
    }
    ran
}

/// The credentials came, and the store knows them.
async fn works(access: &Access, home: &Path, variables: &[(&str, &str)]) {
    list(access, home, variables).await.expect(0);
}

/// They did not come.
async fn fails(access: &Access, home: &Path, variables: &[(&str, &str)], why: &str) {
    let ran = list(access, home, variables).await.expect(40);
    says(&ran, &[why, "hint: "]);
}

/// A store with a vault, and an empty home.
async fn server() -> (FaultyS3, tempfile::TempDir) {
    let server = FaultyS3::start().await.unwrap();
    let (access, home) = (server.access(), tempfile::tempdir().unwrap());
    access.create_bucket(BUCKET).await.unwrap();
    let cli = program()
        .vault(format!("s3://{BUCKET}/a"))
        .env("ETCDVAULT_S3_ENDPOINT_URL", &access.url)
        .env("AWS_ACCESS_KEY_ID", &access.access_key)
        .env("AWS_SECRET_ACCESS_KEY", &access.secret_key);
    cli.run(["init", "--no-encryption"]).await.unwrap().expect(0);
    (server, home)
}

const NO_IMDS: (&str, &str) = ("AWS_EC2_METADATA_DISABLED", "true");

#[tokio::test(flavor = "multi_thread")]
async fn a_container_endpoint_gives_them() {
    let (server, home) = server().await;
    let (access, home) = (server.access().clone(), home.path());
    let given = document(&access);
    let giver = Giver::start(move |request| {
        match request.head.contains(&format!("authorization: {TOKEN}\n")) {
            true => (200, given.clone()),
            false => (401, "{}".to_owned()),
        }
    })
    .await;
    let url = format!("{}/v1/credentials", giver.url);
    let file = home.join("token");
    std::fs::write(&file, TOKEN).unwrap();
    let url = ("AWS_CONTAINER_CREDENTIALS_FULL_URI", url.as_str());
    let file = ("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", file.to_str().unwrap());
    let token = |text| ("AWS_CONTAINER_AUTHORIZATION_TOKEN", text);
    works(&access, home, &[NO_IMDS, url, token(TOKEN)]).await;
    works(&access, home, &[NO_IMDS, url, file]).await;
    let seen = giver.seen();
    assert_eq!(seen.len(), 2, "{seen:?}");
    assert!(seen.iter().all(|request| request.path == "/v1/credentials"), "{seen:?}");
    let why = "the credentials could not be loaded";
    fails(&access, home, &[NO_IMDS, url, token("wrong")], why).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_web_identity_is_exchanged_for_them() {
    let (server, home) = server().await;
    let (access, home) = (server.access().clone(), home.path());
    let given = assumed(&access, "AssumeRoleWithWebIdentity");
    let giver = Giver::start(move |request| {
        let asked = ["Action=AssumeRoleWithWebIdentity", "role%2Fwriter", TOKEN];
        match asked.iter().all(|part| request.body.contains(part)) {
            true => (200, given.clone()),
            false => (403, String::new()),
        }
    })
    .await;
    let file = home.join("token");
    std::fs::write(&file, TOKEN).unwrap();
    let variables = [
        NO_IMDS,
        ("AWS_REGION", "eu-central-1"),
        ("AWS_ENDPOINT_URL_STS", giver.url.as_str()),
        ("AWS_ROLE_ARN", "arn:aws:iam::123456789012:role/writer"),
        ("AWS_WEB_IDENTITY_TOKEN_FILE", file.to_str().unwrap()),
    ];
    works(&access, home, &variables).await;
    assert_eq!(giver.seen().len(), 1, "{:?}", giver.seen());
    std::fs::remove_file(&file).unwrap();
    fails(&access, home, &variables, "the credentials could not be loaded").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_role_is_assumed_from_a_profile() {
    let (server, home) = server().await;
    let (access, home) = (server.access().clone(), home.path());
    let given = assumed(&access, "AssumeRole");
    let giver = Giver::start(move |request| {
        // Signed with the keys of the other profile.
        let asked = request.body.contains("Action=AssumeRole&")
            && request.body.contains("role%2Fwriter")
            && request.head.contains("Credential=AKIABASE/");
        if asked { (200, given.clone()) } else { (403, String::new()) }
    })
    .await;
    let profiles = "[profile writer]\nrole_arn = arn:aws:iam::123456789012:role/writer\n\
                    source_profile = base\nregion = eu-west-3\n\
                    [profile base]\naws_access_key_id = AKIABASE\naws_secret_access_key = base\n";
    let file = home.join("config");
    std::fs::write(&file, profiles).unwrap();
    let variables = [
        NO_IMDS,
        ("AWS_ENDPOINT_URL_STS", giver.url.as_str()),
        ("AWS_CONFIG_FILE", file.to_str().unwrap()),
        ("AWS_PROFILE", "writer"),
    ];
    works(&access, home, &variables).await;
    assert_eq!(giver.seen().len(), 1, "{:?}", giver.seen());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_machines_role_gives_them() {
    let (server, home) = server().await;
    let (access, home) = (server.access().clone(), home.path());
    let given = document(&access);
    // Version 2 of the service alone: without its session's token nothing is given.
    let giver = Giver::start(move |request| {
        const ROLES: &str = "/latest/meta-data/iam/security-credentials";
        let with_token = request.head.contains(&format!("x-aws-ec2-metadata-token: {TOKEN}\n"));
        let path = request.path.trim_end_matches('/');
        match (request.method.as_str(), path) {
            ("PUT", "/latest/api/token") => (200, TOKEN.to_owned()),
            ("GET", ROLES) if with_token => (200, "writer".to_owned()),
            ("GET", path) if with_token && path == format!("{ROLES}/writer") => {
                (200, given.clone())
            }
            _ if with_token => (404, String::new()),
            _ => (401, String::new()),
        }
    })
    .await;
    let imds = ("AWS_EC2_METADATA_SERVICE_ENDPOINT", giver.url.as_str());
    works(&access, home, &[imds]).await;
    let asked = giver.seen().len();
    assert!(asked >= 3, "{:?}", giver.seen());
    fails(&access, home, &[imds, NO_IMDS], "no credentials were found").await;
    assert_eq!(giver.seen().len(), asked, "it is not asked where it is turned off");
}
