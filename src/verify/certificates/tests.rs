//! Verdicts over time: real TLS servers on loopback, and a clock set by the test.

use super::*;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    SanType,
};
use rustls::pki_types::PrivateKeyDer;
use rustls::{ServerConfig, ServerConnection};
use std::cell::Cell;
use std::future::poll_fn;
use std::net::TcpListener;
use std::task::Poll;
use std::thread;

const NAME: &str = "api.example.com";
const TICK: Duration = Duration::from_millis(1);
const OTHER: &str = "other.example.com";
const BUSY: CertificateVerdict = CertificateVerdict::Unknown("too many certificates were being asked for");

thread_local! {
    /// Time by which the clock was advanced. Each test has its own thread, on which its runtime runs.
    static LATER: Cell<Duration> = const { Cell::new(Duration::ZERO) };
}

fn now() -> Instant {
    thread_local!(static START: Instant = crate::clock::now());
    START.with(|start| *start + LATER.get())
}

fn wait(time: Duration) {
    LATER.set(LATER.get() + time);
}

struct TestAuthority(CertifiedIssuer<'static, KeyPair>);

impl TestAuthority {
    fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    fn certificates(&self) -> CertificateCache {
        let mut roots = RootCertStore::empty();
        roots.add(self.0.der().clone()).unwrap();
        let counter = Counter::noop;
        let meters =
            ProbeMeters { valid: counter(), invalid: counter(), unsupported: counter(), unknown: counter() };
        let certificates = CertificateCache::new(LookupLimiter::default(), Handle::current(), now, meters);
        assert!(!certificates.trusts_somebody());
        certificates.trust(roots);
        certificates
    }

    /// Starts a server with a certificate for the name; its thread ends with the process.
    fn serve(&self, name: &str) -> SocketAddr {
        self.serve_with(&CertificateParams::new(vec![name.to_owned()]).unwrap())
    }

    fn serve_with(&self, params: &CertificateParams) -> SocketAddr {
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.0).unwrap();
        let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config =
            ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
        let config =
            config.with_no_client_auth().with_single_cert(vec![certificate.der().clone()], key).unwrap();
        let (config, listener) = (Arc::new(config), TcpListener::bind("127.0.0.1:0").unwrap());
        let address = listener.local_addr().unwrap();
        thread::spawn(move || {
            while let Ok((mut socket, _)) = listener.accept() {
                let mut tls = ServerConnection::new(Arc::clone(&config)).unwrap();
                while tls.complete_io(&mut socket).is_ok_and(|(read, wrote)| read + wrote > 0) {}
            }
        });
        address
    }
}

/// Connects, and counts its connections.
#[derive(Default)]
struct Connector(Cell<usize>);

impl Connector {
    fn begin(&self, to: SocketAddr) -> Result<StartedConnection, &'static str> {
        self.0.set(self.0.get() + 1);
        let socket = TcpStream::connect(to).map_err(|_| "refused")?;
        socket.set_nonblocking(true).unwrap();
        Ok((socket, Box::new(())))
    }

    async fn check(&self, certificates: &CertificateCache, name: &str, to: SocketAddr) -> CertificateVerdict {
        self.check_for(&asker(), certificates, name, to).await
    }

    async fn check_for(
        &self,
        asker: &TenantLookups,
        certificates: &CertificateCache,
        name: &str,
        to: SocketAddr,
    ) -> CertificateVerdict {
        certificates.check(&name.parse().unwrap(), to, asker, || self.begin(to)).await
    }
}

/// The only tenant of a test with one.
fn asker() -> TenantLookups {
    thread_local!(static ONE: TenantLookups = TenantLookups::default());
    ONE.with(Clone::clone)
}

/// A connection that the server never answers.
fn silent() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

#[tokio::test]
async fn verdict_is_per_name_and_address() {
    let authority = TestAuthority::new();
    let certificates = authority.certificates();
    let (server, other) = (authority.serve(NAME), authority.serve(OTHER));
    let connector = Connector::default();
    let invalid = CertificateVerdict::Invalid("the certificate is for another name");
    for _ in 0..3 {
        assert_eq!(connector.check(&certificates, NAME, server).await, CertificateVerdict::Valid);
        assert_eq!(connector.check(&certificates, OTHER, server).await, invalid);
        assert_eq!(connector.check(&certificates, NAME, other).await, invalid);
    }
    assert_eq!(connector.0.get(), 3);
    let known = |name: &str, at| certificates.known(&name.parse().unwrap(), at, &asker());
    assert_eq!((known(NAME, server), known(OTHER, server)), (Some(CertificateVerdict::Valid), Some(invalid)));
    assert_eq!(known(OTHER, other), None);
}

/// OpenSSL's clients take these certificates for good.
#[tokio::test]
async fn names_and_purposes_beyond_egret_are_unsupported() {
    let authority = TestAuthority::new();
    let by_common_name = |names: Vec<SanType>| {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, NAME);
        params.subject_alt_names = names;
        params
    };
    let for_purpose = |purposes: Vec<ExtendedKeyUsagePurpose>| {
        let mut params = CertificateParams::new(vec![NAME.to_owned()]).unwrap();
        params.extended_key_usages = purposes;
        params
    };
    let other = |oid: &[u64]| ExtendedKeyUsagePurpose::Other(oid.to_vec());
    let (ms, ns) = (other(&[1, 3, 6, 1, 4, 1, 311, 10, 3, 3]), other(&[2, 16, 840, 1, 113_730, 4, 1]));
    let mail = SanType::Rfc822Name("admin@example.com".try_into().unwrap());
    let uri = SanType::URI("https://api.example.com/".try_into().unwrap());
    let dns = SanType::DnsName(OTHER.try_into().unwrap());
    for (what, params, is_unsupported) in [
        ("no name", by_common_name(vec![]), true),
        ("mail alone", by_common_name(vec![mail.clone()]), true),
        ("URI alone", by_common_name(vec![uri]), true),
        ("IP alone", by_common_name(vec![SanType::IpAddress("192.0.2.1".parse().unwrap())]), true),
        ("mail and another name", by_common_name(vec![mail, dns]), false),
        ("server-gated", for_purpose(vec![ms, ns]), true),
        ("any purpose", for_purpose(vec![ExtendedKeyUsagePurpose::Any]), true),
        ("clients", for_purpose(vec![ExtendedKeyUsagePurpose::ClientAuth]), false),
    ] {
        let (certificates, server) = (authority.certificates(), authority.serve_with(&params));
        let verdict = Connector::default().check(&certificates, NAME, server).await;
        assert_eq!(
            matches!(verdict, CertificateVerdict::Unsupported(_)),
            is_unsupported,
            "{what}: {verdict:?}"
        );
        assert_eq!(matches!(verdict, CertificateVerdict::Invalid(_)), !is_unsupported, "{what}: {verdict:?}");
    }
}

#[tokio::test]
async fn verdict_lifetimes_depend_on_result() {
    let authority = TestAuthority::new();
    let server = authority.serve(NAME);
    let (listener, nobody) = silent();
    // A server that accepts connections and closes them.
    thread::spawn(move || while listener.accept().is_ok() {});
    let unknown = CertificateVerdict::Unknown("the server did not complete a TLS handshake");
    for (name, at, verdict, counts) in [
        (NAME, server, CertificateVerdict::Valid, Duration::from_secs(3600)),
        (
            OTHER,
            server,
            CertificateVerdict::Invalid("the certificate is for another name"),
            Duration::from_secs(60),
        ),
        (NAME, nobody, unknown, Duration::from_secs(5)),
    ] {
        let (certificates, connector) = (authority.certificates(), Connector::default());
        assert_eq!(connector.check(&certificates, name, at).await, verdict);
        wait(counts.checked_sub(TICK).unwrap());
        assert_eq!(connector.check(&certificates, name, at).await, verdict);
        assert_eq!(connector.0.get(), 1, "{verdict:?} still counts");
        wait(TICK);
        assert_eq!(connector.check(&certificates, name, at).await, verdict);
        assert_eq!(connector.0.get(), 2, "{verdict:?} is found out again");
    }
}

#[tokio::test]
async fn concurrent_flows_share_one_probe() {
    let authority = TestAuthority::new();
    let (certificates, server) = (authority.certificates(), authority.serve(NAME));
    let connector = Connector::default();
    let mut flows: Vec<_> =
        (0..100).map(|_| Box::pin(connector.check(&certificates, NAME, server))).collect();
    for flow in &mut flows {
        assert!(once(flow.as_mut()).await.is_none(), "it waits for the probe");
    }
    for flow in flows {
        assert_eq!(flow.await, CertificateVerdict::Valid);
    }
    assert_eq!(connector.0.get(), 1);
}

/// Polls a flow's check once without waiting; what it has started continues.
async fn once<F: Future>(flow: F) -> Option<F::Output> {
    let mut flow = std::pin::pin!(flow);
    poll_fn(|cx| match flow.as_mut().poll(cx) {
        Poll::Ready(told) => Poll::Ready(Some(told)),
        Poll::Pending => Poll::Ready(None),
    })
    .await
}

#[tokio::test]
async fn failed_verdicts_are_per_tenant() {
    let authority = TestAuthority::new();
    let (certificates, server) = (authority.certificates(), authority.serve(NAME));
    let (_listener, silent) = silent();
    let [hostile, good] = [(); 2].map(|()| TenantLookups::default());
    let connector = Connector::default();
    // Like a server that answers one tenant's address with a reset.
    let name = NAME.parse().unwrap();
    for _ in 0..20 {
        let verdict = certificates.check(&name, server, &hostile, || Err("reset")).await;
        assert_eq!(verdict, CertificateVerdict::Unknown("reset"));
    }
    let found = connector.check_for(&hostile, &certificates, OTHER, server).await;
    assert!(matches!(found, CertificateVerdict::Invalid(_)));
    assert_eq!(certificates.known(&OTHER.parse().unwrap(), server, &good), None);
    let valid = connector.check_for(&good, &certificates, NAME, server).await;
    assert_eq!((valid, connector.0.get()), (CertificateVerdict::Valid, 2));
    // A proof counts for all tenants.
    assert_eq!(connector.check_for(&hostile, &certificates, NAME, server).await, CertificateVerdict::Valid);
    assert_eq!(connector.0.get(), 2);
    // No tenant waits for another's probe.
    let slow = std::pin::pin!(connector.check_for(&hostile, &certificates, NAME, silent));
    assert!(once(slow).await.is_none());
    let refused = certificates.check(&name, silent, &good, || Err("its own")).await;
    assert_eq!(refused, CertificateVerdict::Unknown("its own"));
}

#[tokio::test]
async fn failed_probe_connection_leaves_no_verdict() {
    let certificates = TestAuthority::new().certificates();
    let server = ([192, 0, 2, 1], 443).into();
    let name = NAME.parse().unwrap();
    let asker = TenantLookups::default();
    for why in ["the pool is empty", "and again"] {
        let verdict = certificates.check(&name, server, &asker, || Err(why)).await;
        assert_eq!(verdict, CertificateVerdict::Unknown(why));
    }
    assert_eq!(certificates.known(&name, server, &asker), None);
}

#[tokio::test(start_paused = true)]
async fn silent_server_times_out_after_five_seconds() {
    let certificates = TestAuthority::new().certificates();
    let (_listener, server) = silent();
    let start = tokio::time::Instant::now();
    let verdict = Connector::default().check(&certificates, NAME, server).await;
    assert_eq!(verdict, CertificateVerdict::Unknown("the server did not answer in time"));
    assert_eq!(start.elapsed(), PROBE);
}

#[tokio::test]
async fn probe_rate_is_limited() {
    let certificates = TestAuthority::new().certificates();
    let begun = Cell::new(0);
    let ask = async |asker: &TenantLookups, n: u16| {
        let connect = || {
            begun.set(begun.get() + 1);
            Err("begun")
        };
        certificates.check(&NAME.parse().unwrap(), ([192, 0, 2, 1], n).into(), asker, connect).await
    };
    let tenants: Vec<_> = (0..6).map(|_| TenantLookups::default()).collect();
    for _ in 0..2 {
        let mut of_each = Vec::new();
        for tenant in &tenants {
            let before = begun.get();
            for n in 0..100 {
                let verdict = ask(tenant, n).await;
                assert!(verdict == BUSY || verdict == CertificateVerdict::Unknown("begun"), "{verdict:?}");
            }
            of_each.push(begun.get() - before);
        }
        assert_eq!(of_each, [50, 50, 50, 8, 8, 8]);
        wait(Duration::from_secs(1));
    }
}

#[tokio::test]
async fn concurrent_probes_per_tenant_are_bounded() {
    let certificates = TestAuthority::new().certificates();
    let (_listener, server) = silent();
    let (busy, other) = (TenantLookups::default(), TenantLookups::default());
    let lookups = LookupLimiter::default();
    // Lookups take no probe's place.
    let _held: Vec<_> = std::iter::from_fn(|| lookups.take(&busy.lookups)).collect();
    let connector = Connector::default();
    let name = |n: u32| format!("n{n}.example.com").parse::<Hostname>().unwrap();
    let ask = async |asker: &TenantLookups, n: u32| {
        once(certificates.check(&name(n), server, asker, || connector.begin(server))).await
    };
    for n in 0..128 {
        assert!(ask(&busy, n).await.is_none(), "{n} waits");
        wait(Duration::from_millis(25));
    }
    assert_eq!(ask(&busy, 128).await, Some(BUSY));
    assert!(ask(&other, 129).await.is_none(), "another tenant's is begun");
    assert!(ask(&busy, 0).await.is_none(), "what is under way is shared");
    assert_eq!(connector.0.get(), 129);
}
