//! The layer of `tracing` that takes the events of traced flows.

use super::{FlowTraces, TraceDecision, TracedStep};
use crate::clock;
use crate::flow::FLOW_SPAN;
use crate::hostname::Hostname;
use std::fmt::{self, Write as _};
use std::net::SocketAddr;
use std::time::Instant;
use tracing::field::{Field, Visit};
use tracing::level_filters::LevelFilter;
use tracing::span::{Attributes, Id, Record};
use tracing::subscriber::Interest;
use tracing::{Event, Metadata, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::{Context, Filter};
use tracing_subscriber::registry::LookupSpan;

/// Most steps that are kept of a flow until its name is known.
const MOST_EARLY: usize = 16;
/// Longest description of a step, in bytes.
const LONGEST_STEP: usize = 512;

/// Hands the events of traced flows to [`FlowTraces`]. It is its own filter.
#[derive(Debug, Clone)]
pub struct TraceLayer(pub FlowTraces);

/// A flow's span.
struct SpannedFlow {
    id: String,
    client: SocketAddr,
    accepted: Instant,
    /// The trace that ran when it began, and its decision.
    trace: u64,
    decision: TraceDecision,
    /// Steps until the name is known.
    early: Vec<TracedStep>,
}

impl<S> Filter<S> for TraceLayer {
    fn enabled(&self, metadata: &Metadata<'_>, _: &Context<'_, S>) -> bool {
        self.0.is_running() && is_ours(metadata)
    }

    fn callsite_enabled(&self, metadata: &'static Metadata<'static>) -> Interest {
        if self.0.is_running() && is_ours(metadata) { Interest::sometimes() } else { Interest::never() }
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        Some(if self.0.is_running() { LevelFilter::DEBUG } else { LevelFilter::OFF })
    }
}

/// True for events and spans of this program, not of libraries.
fn is_ours(metadata: &Metadata<'_>) -> bool {
    metadata.target().split("::").next() == Some(env!("CARGO_CRATE_NAME"))
}

impl<S: Subscriber + for<'l> LookupSpan<'l>> Layer<S> for TraceLayer {
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        let Some(span) = context.span(id).filter(|span| span.name() == FLOW_SPAN) else { return };
        let mut values = FlowValues::default();
        attributes.record(&mut values);
        let Ok(client) = values.client.parse::<SocketAddr>() else { return };
        let Some((trace, decision)) = self.0.begin(client.ip()) else { return };
        span.extensions_mut().insert(SpannedFlow {
            id: values.id,
            client,
            accepted: clock::now(),
            trace,
            decision,
            early: Vec::new(),
        });
    }

    fn on_record(&self, id: &Id, record: &Record<'_>, context: Context<'_, S>) {
        let Some(span) = context.span(id) else { return };
        let mut extensions = span.extensions_mut();
        let Some(flow) = extensions.get_mut::<SpannedFlow>() else { return };
        let mut values = FlowValues::default();
        record.record(&mut values);
        let Ok(name) = values.name.parse::<Hostname>() else { return };
        match flow.decision {
            TraceDecision::Traced => return,
            TraceDecision::Unnamed => self.0.release_unnamed(flow.trace),
            TraceDecision::Not => {}
        }
        flow.decision = self.0.decide_named(flow.trace, flow.client.ip(), &name);
        let early = std::mem::take(&mut flow.early);
        if flow.decision == TraceDecision::Traced {
            for step in early {
                self.0.add(flow.trace, step);
            }
        }
    }

    fn on_close(&self, id: Id, context: Context<'_, S>) {
        let Some(span) = context.span(&id) else { return };
        let extensions = span.extensions();
        let Some(SpannedFlow { decision, trace, .. }) = extensions.get() else { return };
        match decision {
            TraceDecision::Traced => self.0.end_traced(*trace),
            TraceDecision::Unnamed => self.0.release_unnamed(*trace),
            TraceDecision::Not => {}
        }
    }

    fn on_event(&self, event: &Event<'_>, context: Context<'_, S>) {
        let Some(mut scope) = context.event_scope(event) else { return };
        let Some(span) = scope.find(|span| span.name() == FLOW_SPAN) else { return };
        let mut extensions = span.extensions_mut();
        let Some(flow) = extensions.get_mut::<SpannedFlow>() else { return };
        if flow.decision == TraceDecision::Not {
            return;
        }
        let mut description = StepDescription::default();
        event.record(&mut description);
        let took = clock::now().saturating_duration_since(flow.accepted);
        let step = TracedStep {
            flow: flow.id.clone(),
            client: flow.client,
            microseconds: u64::try_from(took.as_micros()).unwrap_or(u64::MAX),
            step: description.finish(),
        };
        match flow.decision {
            TraceDecision::Traced => self.0.add(flow.trace, step),
            TraceDecision::Unnamed if flow.early.len() < MOST_EARLY => flow.early.push(step),
            TraceDecision::Unnamed | TraceDecision::Not => {}
        }
    }
}

/// The values of a flow's span.
#[derive(Default)]
struct FlowValues {
    id: String,
    client: String,
    name: String,
}

impl Visit for FlowValues {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        match field.name() {
            "id" => self.id = format!("{value:?}"),
            "client" => self.client = format!("{value:?}"),
            "name" => self.name = format!("{value:?}"),
            _ => {}
        }
    }
}

/// An event in one line: the message, then its values.
#[derive(Default)]
struct StepDescription {
    message: String,
    values: String,
}

impl StepDescription {
    fn finish(self) -> String {
        let mut text = self.message + &self.values;
        if text.len() > LONGEST_STEP {
            let end = (0..=LONGEST_STEP).rev().find(|at| text.is_char_boundary(*at));
            text.truncate(end.unwrap_or_default());
            text.push('…');
        }
        text
    }
}

impl Visit for StepDescription {
    // Writing to a String cannot fail.
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let _ = match field.name() {
            "message" => write!(self.message, "{value:?}"),
            name => write!(self.values, " {name}={value:?}"),
        };
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        let _ = write!(self.values, " {}={value}", field.name());
    }
}
