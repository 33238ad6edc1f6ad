//! x
/// x
pub struct Doctor {
    /// x
    pub steering: crate::steering::Params,
    /// x
    pub metrics: Option<std::net::SocketAddr>,
    /// x
    pub wanted_flows: u64,
}
/// x
pub fn doctor(_: &Doctor, _: bool) -> std::process::ExitCode {
    std::process::ExitCode::SUCCESS
}
