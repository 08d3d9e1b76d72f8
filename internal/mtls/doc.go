// Package mtls decides who is who on a TLS connection: it makes Assay's certificate authorities, puts roles into certificates, reads
// them back, and makes the TLS configurations that check a bundle, a pinned CA or a pinned certificate.
//
// There are three authorities with their own keys: servers, clients (administrators and services) and agents. The agents' is a
// trust anchor for agents and for nothing else. A role is the URI name "assay:role:ROLE" in the certificate's subjectAltName, one
// per certificate, and it counts only when the chain leads to the clients' CA; the common name is the name of its holder.
//
// The package trusts the files in the authorities' directory and the caller's clock. It leaves to its callers what a role may do,
// and whether the key of a peer without a role (PeerKey) belongs to an agent.
package mtls
