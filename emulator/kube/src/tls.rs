//! Who may talk to the API: a certificate authority, a server certificate and a bearer token, all made at the first start and kept,
//! and the kubeconfig that names them. Everything is mode 0600: `exec` is root's shell.

use std::io::{self, Read, Write as _};
use std::net::SocketAddr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use base64::Engine as _;
use emulator_common::places::Places;
use rcgen::{BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose};

/// What was made or read.
pub struct Credentials {
    /// PEM.
    pub authority: String,
    pub token: String,
    pub server: Arc<rustls::ServerConfig>,
}

/// Why there are no credentials.
#[derive(Debug, thiserror::Error)]
pub enum CredentialsError {
    #[error("cannot read or write {path}")]
    File {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("cannot make a certificate")]
    Make(#[from] rcgen::Error),
    #[error("the certificate and key in {path} cannot be used; remove that directory to have them made again")]
    Use {
        path: PathBuf,
        #[source]
        source: rustls::Error,
    },
    #[error("the key in {path} cannot sign service account tokens ({why}); remove it to have another one made, which ends all tokens")]
    SigningKey { path: PathBuf, why: String },
    #[error("cannot draw random numbers")]
    Random(#[source] io::Error),
}

fn random(bytes: &mut [u8]) -> io::Result<()> {
    std::fs::File::open("/dev/urandom")?.read_exact(bytes)
}

/// Seeds the generator of object ids.
pub fn random_u64() -> io::Result<u64> {
    let mut bytes = [0; 8];
    random(&mut bytes)?;
    Ok(u64::from_le_bytes(bytes))
}

/// Writes a file that only its owner may read, whole or not at all.
pub fn write_private(path: &Path, text: &str) -> Result<(), CredentialsError> {
    let write = || {
        let temporary = path.with_extension("new");
        let mut file = std::fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        std::fs::rename(&temporary, path)
    };
    write().map_err(|source| CredentialsError::File { path: path.to_owned(), source })
}

/// Reads a file that may not be there.
pub fn read(path: &Path) -> Result<Option<String>, CredentialsError> {
    match std::fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(CredentialsError::File { path: path.to_owned(), source }),
    }
}

/// The credentials of a data directory; made where they are missing.
pub fn credentials(places: &Places) -> Result<Credentials, CredentialsError> {
    let dir = places.kube();
    let make_dir = || {
        std::fs::create_dir_all(&dir)?;
        std::fs::set_permissions(&dir, std::os::unix::fs::PermissionsExt::from_mode(0o700))
    };
    make_dir().map_err(|source| CredentialsError::File { path: dir.clone(), source })?;
    let file = |name: &str| dir.join(name);
    let pems = (read(&file("ca.crt"))?, read(&file("server.crt"))?, read(&file("server.key"))?);
    let (authority, certificate, key) = match pems {
        (Some(authority), Some(certificate), Some(key)) => (authority, certificate, key),
        _ => {
            let (authority, certificate, key) = make()?;
            write_private(&file("server.key"), &key)?;
            write_private(&file("server.crt"), &certificate)?;
            write_private(&file("ca.crt"), &authority)?;
            (authority, certificate, key)
        }
    };
    let token = match read(&file("token"))? {
        Some(token) if !token.trim().is_empty() => token.trim().to_owned(),
        _ => {
            let mut bytes = [0; 32];
            random(&mut bytes).map_err(CredentialsError::Random)?;
            let token = base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(bytes);
            write_private(&file("token"), &token)?;
            token
        }
    };
    let server = server_config(&certificate, &key).map_err(|source| CredentialsError::Use { path: dir.clone(), source })?;
    Ok(Credentials { authority, token, server: Arc::new(server) })
}

/// PEMs of the authority, of the server's certificate and of its key. The authority's key is not kept: nothing else is ever signed.
fn make() -> Result<(String, String, String), rcgen::Error> {
    let mut params = CertificateParams::new(Vec::<String>::new())?;
    params.distinguished_name.push(DnType::CommonName, "ebbtide-ca");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
    params.not_after = rcgen::date_time_ymd(2126, 1, 1);
    let authority_key = KeyPair::generate()?;
    let authority = params.self_signed(&authority_key)?;
    let issuer = Issuer::new(params, authority_key);
    let names = ["localhost", "127.0.0.1", "::1", "kubernetes", "kubernetes.default", "kubernetes.default.svc"].map(str::to_owned);
    let mut params = CertificateParams::new(names)?;
    params.distinguished_name.push(DnType::CommonName, "ebbtide");
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    params.not_after = rcgen::date_time_ymd(2126, 1, 1);
    let key = KeyPair::generate()?;
    let certificate = params.signed_by(&key, &issuer)?;
    Ok((authority.pem(), certificate.pem(), key.serialize_pem()))
}

fn server_config(certificate: &str, key: &str) -> Result<rustls::ServerConfig, rustls::Error> {
    use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
    let unreadable = |error: rustls::pki_types::pem::Error| rustls::Error::General(error.to_string());
    let chain = CertificateDer::pem_slice_iter(certificate.as_bytes()).collect::<Result<Vec<_>, _>>().map_err(unreadable)?;
    let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).map_err(unreadable)?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(chain, key)?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(config)
}

/// Where a listener is reached from this machine: one that listens everywhere, on loopback.
pub fn reached_at(addr: SocketAddr) -> SocketAddr {
    if addr.ip().is_unspecified() { SocketAddr::from(([127, 0, 0, 1], addr.port())) } else { addr }
}

/// Writes the kubeconfig; its current context is `ebbtide`.
pub fn write_kubeconfig(places: &Places, addr: SocketAddr, credentials: &Credentials) -> Result<PathBuf, CredentialsError> {
    let authority = base64::engine::general_purpose::STANDARD.encode(&credentials.authority);
    let token = &credentials.token;
    let host = reached_at(addr);
    let text = format!(
        "apiVersion: v1\nkind: Config\nclusters:\n- name: ebbtide\n  cluster:\n    server: https://{host}\n    \
         certificate-authority-data: {authority}\ncontexts:\n- name: ebbtide\n  context:\n    cluster: ebbtide\n    user: ebbtide\n    \
         namespace: default\ncurrent-context: ebbtide\nusers:\n- name: ebbtide\n  user:\n    token: {token}\n"
    );
    let path = places.kubeconfig();
    write_private(&path, &text)?;
    Ok(path)
}
