//! The server name that rustls reads of a hello.

/// The name that rustls takes the client to want; an error if it does not accept the hello.
pub(crate) fn name_by_rustls(bytes: &[u8]) -> Result<Option<String>, ()> {
    let hello = rustls_hello(bytes).ok_or(())?;
    Ok(hello.client_hello().server_name().map(str::to_owned))
}

/// The hello, if rustls accepts it.
fn rustls_hello(mut bytes: &[u8]) -> Option<rustls::server::Accepted> {
    let mut acceptor = rustls::server::Acceptor::default();
    while !bytes.is_empty() {
        if acceptor.read_tls(&mut bytes).ok()? == 0 {
            return None;
        }
        if let Some(accepted) = acceptor.accept().ok()? {
            return Some(accepted);
        }
    }
    None
}
