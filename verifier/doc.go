// Package verifier asks agents for evidence, judges it and keeps what it found.
//
// The judgement is the pure machine of package machine. Here are its driver, which keeps one goroutine for each node, what people and the
// operator may ask for, and the interfaces of collectors and stores; package pull collects, package httpapi serves the native API. It trusts the
// registrar's word on which AK was activated (and checks the AK's attributes and the EK's endorsement again), and nothing that an agent says
// before quote.Verify has accepted it.
package verifier
