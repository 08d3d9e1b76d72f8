// Package machine is the verifier's view of one node, as a pure function: Step takes a state and an event, and returns the next state and
// what is to be done about it.
//
// It verifies, replays and appraises what an agent answered, and moves the verdict by the few ways that there are. It does no I/O and reads no
// clock: events carry the time and the nonce, and the driver, package verifier, carries out the actions, stores what they keep and brings the
// next event. It trusts the Subject, whose keys the driver checked at enrolment, and nothing in an Answer before quote.Verify has accepted it.
package machine
