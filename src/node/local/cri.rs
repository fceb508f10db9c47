//! The container runtime, by the kubelet's own interface to it: `runtime.v1` of
//! `k8s.io/cri-api`, over its unix socket. Of the messages only the fields that
//! matter here are declared; numbers are those of `api.proto`.

use std::collections::HashMap;
use std::path::Path;
use std::time::Duration;

use tonic::client::Grpc;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Status};
use tonic_prost::ProstCodec;

use super::super::{Container, ContainerQuery, NodeErrorKind};
use super::fault::Fault;

/// An answer is never larger: the kubelet's own bound.
const MAX_ANSWER: usize = 16 << 20;

/// Beyond the grace a runtime may take so long to kill.
const KILL: Duration = Duration::from_secs(30);

#[derive(Clone, PartialEq, prost::Message)]
struct Empty {}

#[derive(Clone, PartialEq, prost::Message)]
struct Containers {
    #[prost(message, repeated, tag = "1")]
    containers: Vec<Listed>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Listed {
    #[prost(string, tag = "1")]
    id: String,
    #[prost(string, tag = "2")]
    sandbox: String,
    #[prost(message, optional, tag = "3")]
    metadata: Option<ContainerMetadata>,
    #[prost(message, optional, tag = "4")]
    image: Option<Image>,
    #[prost(int32, tag = "6")]
    state: i32,
    #[prost(int64, tag = "7")]
    created: i64,
    #[prost(map = "string, string", tag = "8")]
    labels: HashMap<String, String>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct ContainerMetadata {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(uint32, tag = "2")]
    attempt: u32,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Image {
    #[prost(string, tag = "1")]
    image: String,
    #[prost(string, tag = "18")]
    as_specified: String,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Sandboxes {
    #[prost(message, repeated, tag = "1")]
    items: Vec<Sandbox>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Sandbox {
    #[prost(string, tag = "1")]
    id: String,
    #[prost(message, optional, tag = "2")]
    metadata: Option<SandboxMetadata>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct SandboxMetadata {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(string, tag = "2")]
    uid: String,
    #[prost(string, tag = "3")]
    namespace: String,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Stop {
    #[prost(string, tag = "1")]
    id: String,
    #[prost(int64, tag = "2")]
    seconds: i64,
}

/// `CONTAINER_RUNNING`.
const RUNNING: i32 = 1;

/// A connection to the runtime.
#[derive(Debug)]
pub(super) struct Runtime {
    channel: Channel,
    patience: Duration,
}

impl Runtime {
    /// Connects to the runtime at `socket`; no call takes longer than `patience`.
    pub(super) async fn connect(socket: &Path, patience: Duration) -> Result<Self, Fault> {
        let wrong = |why: &dyn std::fmt::Display| {
            Fault::new(NodeErrorKind::Other, format!("{}: {why}", socket.display()))
        };
        // The connector says little; the file itself says why.
        if let Err(error) = socket.symlink_metadata() {
            return Err(Fault::from(error).at(socket));
        }
        let endpoint = Endpoint::from_shared(format!("unix://{}", socket.display()));
        let endpoint = endpoint.map_err(|error| wrong(&error))?;
        let endpoint = endpoint.connect_timeout(patience);
        let channel = match tokio::time::timeout(patience, endpoint.connect()).await {
            Ok(Ok(channel)) => channel,
            Ok(Err(error)) => {
                let source = std::error::Error::source(&error);
                let why = source.map_or_else(|| error.to_string(), ToString::to_string);
                return Err(wrong(&why)
                    .hint("is the container runtime running? systemctl status containerd"));
            }
            Err(_) => return Err(slow(patience)),
        };
        Ok(Self { channel, patience })
    }

    /// The containers that match.
    pub(super) async fn containers(&self, query: &ContainerQuery) -> Result<Vec<Container>, Fault> {
        let listed: Containers = self.call("ListContainers", Empty {}, self.patience).await?;
        let pods: Sandboxes = self.call("ListPodSandbox", Empty {}, self.patience).await?;
        Ok(select(listed, pods, query))
    }

    /// Stops a container. One that is gone already is no error for a runtime.
    pub(super) async fn stop(&self, id: &str, grace: Duration) -> Result<(), Fault> {
        // Rounded up: 0 would be a kill at once where a moment was given.
        let whole = grace.as_secs() + u64::from(grace.subsec_nanos() > 0);
        let seconds = i64::try_from(whole).unwrap_or(i64::MAX);
        let patience = grace.saturating_add(KILL);
        let _: Empty =
            self.call("StopContainer", Stop { id: id.to_owned(), seconds }, patience).await?;
        Ok(())
    }

    async fn call<Q, A>(&self, method: &str, question: Q, patience: Duration) -> Result<A, Fault>
    where
        Q: prost::Message + Send + Sync + 'static,
        A: prost::Message + Default + Send + Sync + 'static,
    {
        let path = format!("/runtime.v1.RuntimeService/{method}");
        let path = PathAndQuery::try_from(path)
            .map_err(|error| Fault::new(NodeErrorKind::Other, error.to_string()))?;
        let mut grpc = Grpc::new(self.channel.clone()).max_decoding_message_size(MAX_ANSWER);
        let call = async {
            grpc.ready().await.map_err(|error| Status::unavailable(error.to_string()))?;
            grpc.unary(Request::new(question), path, ProstCodec::<Q, A>::default()).await
        };
        match tokio::time::timeout(patience, call).await {
            Ok(Ok(answer)) => Ok(answer.into_inner()),
            Ok(Err(status)) => Err(refused(method, &status)),
            Err(_) => Err(slow(patience)),
        }
    }
}

fn slow(patience: Duration) -> Fault {
    let why = format!("the container runtime did not answer within {} s", patience.as_secs());
    Fault::new(NodeErrorKind::Slow, why)
}

fn refused(method: &str, status: &Status) -> Fault {
    let kind = match status.code() {
        Code::NotFound => NodeErrorKind::NotFound,
        Code::Unimplemented => NodeErrorKind::Unsupported,
        Code::DeadlineExceeded => NodeErrorKind::Slow,
        Code::PermissionDenied => NodeErrorKind::Permission,
        _ => NodeErrorKind::Other,
    };
    let fault = Fault::new(kind, format!("{method}: {}", status.message()));
    if status.code() == Code::Unimplemented {
        return fault.hint("the container runtime does not speak CRI v1; is its CRI plugin off?");
    }
    fault
}

/// Joins containers with their pods. A container without a pod has its labels.
fn select(listed: Containers, pods: Sandboxes, query: &ContainerQuery) -> Vec<Container> {
    let pods: HashMap<String, SandboxMetadata> = pods
        .items
        .into_iter()
        .filter_map(|sandbox| Some((sandbox.id, sandbox.metadata?)))
        .collect();
    let mut found = Vec::new();
    for listed in listed.containers {
        let metadata = listed.metadata.unwrap_or_default();
        let label = |name: &str| {
            listed.labels.get(&format!("io.kubernetes.{name}")).cloned().unwrap_or_default()
        };
        let (pod, namespace, pod_uid) = match pods.get(&listed.sandbox) {
            Some(pod) => (pod.name.clone(), pod.namespace.clone(), pod.uid.clone()),
            None => (label("pod.name"), label("pod.namespace"), label("pod.uid")),
        };
        let image = listed.image.unwrap_or_default();
        let named = if image.as_specified.is_empty() { image.image } else { image.as_specified };
        let container = Container {
            id: listed.id,
            name: metadata.name,
            pod,
            namespace,
            pod_uid,
            running: listed.state == RUNNING,
            attempt: metadata.attempt,
            created: listed.created,
            image: named,
        };
        let is = |wanted: &Option<String>, is: &String| {
            wanted.as_ref().is_none_or(|wanted| wanted == is)
        };
        if is(&query.namespace, &container.namespace)
            && is(&query.name, &container.name)
            && (query.ended || container.running)
        {
            found.push(container);
        }
    }
    found.sort_by(|a, b| (a.created, &a.id).cmp(&(b.created, &b.id)));
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use prost::Message as _;

    /// What a runtime sends, with fields that are not declared here.
    fn recorded() -> (Containers, Sandboxes) {
        let text =
            |tag: u8, text: &str| [&[tag << 3 | 2, text.len() as u8], text.as_bytes()].concat();
        let inner = |tag: u8, parts: &[Vec<u8>]| {
            let body = parts.concat();
            [vec![tag << 3 | 2, body.len() as u8], body].concat()
        };
        let container = |id: &str, pod: &str, name: &str, state: u8, created: u8| {
            inner(
                1,
                &[
                    text(1, id),
                    text(2, pod),
                    inner(3, &[text(1, name), vec![2 << 3, 4]]),
                    inner(4, &[text(1, "sha256:1"), vec![18 << 3 & 0x7f | 2 | 0x80, 1, 1, b'i']]),
                    text(5, "ref"),
                    vec![6 << 3, state],
                    vec![7 << 3, created],
                    text(10, "image id"),
                ],
            )
        };
        let bytes = [
            container("c2", "p1", "etcd", 1, 9),
            container("c1", "p1", "etcd", 2, 3),
            container("c3", "p2", "kube-apiserver", 1, 4),
        ];
        let listed = Containers::decode(bytes.concat().as_slice()).unwrap();
        let pod = |id: &str, name: &str, uid: &str| {
            let metadata = inner(2, &[text(1, name), text(2, uid), text(3, "kube-system")]);
            inner(1, &[text(1, id), metadata, vec![3 << 3, 1]])
        };
        let pods = [pod("p1", "etcd-k1", "u1"), pod("p2", "kube-apiserver-k1", "u2")].concat();
        (listed, Sandboxes::decode(pods.as_slice()).unwrap())
    }

    #[test]
    fn containers_are_joined_with_their_pods_and_chosen() {
        let (listed, pods) = recorded();
        let ids = |query: &ContainerQuery| {
            let found = select(listed.clone(), pods.clone(), query);
            found.into_iter().map(|container| container.id).collect::<Vec<_>>()
        };
        let all = ContainerQuery { ended: true, ..ContainerQuery::default() };
        assert_eq!(ids(&all), ["c1", "c3", "c2"]);
        assert_eq!(ids(&ContainerQuery::default()), ["c3", "c2"]);
        let etcd = ContainerQuery { name: Some("etcd".to_owned()), ..ContainerQuery::default() };
        assert_eq!(ids(&etcd), ["c2"]);
        let other = ContainerQuery { namespace: Some("x".to_owned()), ..ContainerQuery::default() };
        assert_eq!(ids(&other), [""; 0]);
        let found = select(listed.clone(), pods.clone(), &etcd);
        let expected = Container {
            id: "c2".to_owned(),
            name: "etcd".to_owned(),
            pod: "etcd-k1".to_owned(),
            namespace: "kube-system".to_owned(),
            pod_uid: "u1".to_owned(),
            running: true,
            attempt: 4,
            created: 9,
            image: "i".to_owned(),
        };
        assert_eq!(found, [expected]);
    }

    #[tokio::test]
    async fn a_socket_that_is_not_there_says_so() {
        let fault = Runtime::connect(Path::new("/no/such.sock"), KILL).await.unwrap_err();
        assert_eq!(fault.kind, NodeErrorKind::NotFound);
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("dead.sock");
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        let fault = Runtime::connect(&path, KILL).await.unwrap_err();
        assert!(fault.hint.is_some() && fault.why.contains("dead.sock"), "{fault:?}");
    }
}
