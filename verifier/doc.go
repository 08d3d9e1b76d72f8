// Package verifier asks agents for evidence, judges it and keeps what it found.
//
// The judgement is a pure machine, Step: state and event in, state and actions out. Around it are a driver that keeps one goroutine for each
// node, a client of the agents' pull API, and the interfaces of stores; package httpapi beside it serves the native API. It trusts the
// registrar's word on which AK was activated (and checks the AK's attributes and the EK's endorsement again), and nothing that an agent says
// before quote.Verify has accepted it.
package verifier
