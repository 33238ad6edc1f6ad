//! Fixed answers of the control API.

use egret::admin::{
    self, CandidateHandlers, CandidateReport, ClientTarget, ControlError, ControlHandlers, DestinationPorts,
    DrainAnswer, ExplainQuery, ExplainReport, LoadAnswer, PortsQuery, PortsReport, ReloadAnswer, SourcePorts,
    TenantPorts,
};
use egret::audit::SocketPeer;
use std::sync::{Arc, Mutex};

/// One pool with one address, and one warm destination.
pub fn control(asked: Arc<Mutex<Option<PortsQuery>>>) -> ControlHandlers {
    let ports = move |query: PortsQuery| {
        if query.pool.as_deref().is_some_and(|pool| pool != "acme") {
            return Err(ControlError::Unknown("no pool is called that".into()));
        }
        *asked.lock().unwrap() = Some(query);
        Ok(report())
    };
    let drain = |peer: SocketPeer, order: admin::DrainOrder| {
        assert_eq!(peer.pid.is_some(), peer.uid.is_some());
        match (order.source.to_string().as_str(), order.on) {
            ("203.0.113.16", on) => {
                let state = if on { "draining" } else { "available" };
                let without_address = if on { vec!["acme".into()] } else { Vec::new() };
                Ok(DrainAnswer { source: order.source, state: state.into(), without_address })
            }
            ("203.0.113.17", false) => Ok(DrainAnswer {
                source: order.source,
                state: "draining".into(),
                without_address: Vec::new(),
            }),
            ("203.0.113.18", false) => Err(ControlError::Conflict("203.0.113.18 is withdrawn".into())),
            _ => Err(ControlError::Unknown(format!("{} is not listed by any pool", order.source))),
        }
    };
    let reload = |_: SocketPeer, ()| {
        let (answer, told) = admin::pending_order();
        answer.send(refused());
        Ok(told)
    };
    let names = |_| Err(ControlError::BadArgument("nobody asks".into()));
    ControlHandlers {
        ports: Arc::new(ports),
        names: Arc::new(names),
        drain: Arc::new(drain),
        reload: Arc::new(reload),
        explain: Arc::new(explain),
        trace: Arc::new(|_, _| Ok(admin::TraceStarted { trace: 7 })),
        traced: Arc::new(|_| Err(ControlError::Unavailable("no trace runs".into()))),
        probe: Arc::new(|_, _| Ok(admin::ProbeExpected {})),
        probed: Arc::new(|_| Ok(admin::ProbedFlowAnswer { flow: None })),
        candidate: candidate(),
        forbidden: Arc::new(|_, _, _| panic!("the test may")),
    }
}

/// A candidate that was rolled back; its files are those of the running configuration.
pub fn fallen_back() -> admin::PromotionFiles {
    let files = admin::FileSet { main: "/nonexistent/egret.toml".into(), files: Vec::new() };
    let time = "2026-11-22T08:53:58Z".parse().unwrap();
    let rollback = admin::RollbackReport { time, denied: 5, flows: 15, within_seconds: 300 };
    let (candidate, running) = (files.clone(), files);
    admin::PromotionFiles { candidate, running, revokes: 0, asks: 0, fell_back: Some(rollback) }
}

/// Initially without a candidate; only `good.toml` can be loaded.
fn candidate() -> CandidateHandlers {
    let none = || ControlError::Unknown("no candidate is loaded".into());
    let load = |_: SocketPeer, order: admin::LoadOrder| {
        let loaded = order.file.ends_with("good.toml");
        let (answer, told) = admin::pending_order();
        let findings = if loaded { Vec::new() } else { vec!["bad.toml:3:1: error: unknown key".into()] };
        let (version, difference) = (String::from("a1b2c3"), loaded.then(Default::default));
        answer.send(LoadAnswer { loaded, version, difference, revoked: 0, findings });
        Ok(told)
    };
    let share = move |_: SocketPeer, _: admin::ShareOrder| {
        let (answer, told) = admin::pending_order();
        answer.send(Err(none()));
        Ok(told)
    };
    let promote = |_: SocketPeer, _: admin::PromoteOrder| {
        let (answer, told) = admin::pending_order();
        answer.send(refused());
        Ok(told)
    };
    let drop = move |_: SocketPeer, ()| {
        let (answer, told) = admin::pending_order();
        answer.send(Err(none()));
        Ok(told)
    };
    CandidateHandlers {
        report: Arc::new(|()| Ok(CandidateReport { candidate: None })),
        files: Arc::new(move |()| Err(none())),
        load: Arc::new(load),
        share: Arc::new(share),
        promote: Arc::new(promote),
        drop: Arc::new(drop),
    }
}

pub fn refused() -> ReloadAnswer {
    ReloadAnswer {
        reloaded: false,
        config: "00c0ffee00c0ffee".into(),
        difference: None,
        revoked: 0,
        unproved: 0,
        steering: None,
        findings: vec!["egret.toml:3:1: error: unknown key".into()],
    }
}

/// Answers that the client belongs to no tenant.
fn explain(query: ExplainQuery) -> Result<ExplainReport, ControlError> {
    let ClientTarget::Name(name, port) = query.to else {
        return Err(ControlError::BadArgument("an address already".into()));
    };
    Ok(ExplainReport {
        live: true,
        from: query.from,
        tenant: None,
        canary: None,
        mode: None,
        hostname: Some(name.to_string()),
        address: query.address.unwrap_or([192, 0, 2, 1].into()),
        address_assumed: query.address.is_none(),
        port,
        ech: query.ech,
        not_hostname: false,
        steered: true,
        never_steered: None,
        refused_family: None,
        other_protocol: query.other_protocol,
        inspected: false,
        rules: Vec::new(),
        allowed: false,
        rule: None,
        destination: None,
        certificate: None,
        private: None,
        known_addresses: None,
        address_check: None,
        certificate_check: None,
        would_deny: None,
        outcome: None,
        help: None,
        pool: None,
        max_flows: None,
        flows: None,
    })
}

pub fn report() -> PortsReport {
    PortsReport {
        sources: vec![SourcePorts {
            pool: "acme".into(),
            source: "203.0.113.16".into(),
            public: None,
            state: "available".into(),
            capacity: 16,
            live: 8,
            held: 2,
            busiest: 10,
        }],
        hot: vec![DestinationPorts {
            pool: "acme".into(),
            source: "203.0.113.16".parse().unwrap(),
            public: None,
            destination: "[2001:db8::9]:443".parse().unwrap(),
            hostname: Some("api.example.com".into()),
            live: 8,
            held: 2,
            capacity: 16,
            growth_per_second: Some(0.5),
            exhausted_in_seconds: Some(12),
            tenants: vec![TenantPorts { tenant: "acme".into(), ports: 8 }],
            clients: Vec::new(),
        }],
    }
}
