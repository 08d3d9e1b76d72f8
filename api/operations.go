package api

import "github.com/assay-project/assay/attest"

// Operation is one operation of the API: what the server routes by and the OpenAPI document is made from.
type Operation struct {
	Method, Path, Summary string
	// Request and Response are zero values of the bodies' types; nil for none. RequestType and ResponseType are the media types where a
	// body is not JSON.
	Request, Response         any
	RequestType, ResponseType string
	// Status of success.
	Status int
	// Pages: the operation takes limit and cursor.
	Pages bool
}

// Operations returns all operations of /api/v1, in the order of the document.
func Operations() []Operation {
	return []Operation{
		{Method: "GET", Path: PathServer, Summary: "Who answers, and as whom the caller is known", Response: Server{}, Status: 200},
		{Method: "GET", Path: PathNodes, Summary: "List the enrolled nodes in the order of their ids", Response: Page[Node]{}, Status: 200, Pages: true},
		{Method: "POST", Path: PathNodes, Summary: "Enrol a registered agent", Request: EnrolRequest{}, Response: Node{}, Status: 201},
		{Method: "GET", Path: PathNodes + "/{id}", Summary: "Show a node with its verdict", Response: Node{}, Status: 200},
		{Method: "PATCH", Path: PathNodes + "/{id}", Summary: "Change policies, interval or assignment, by the operator alone where an owner assigns; changed policies judge the whole stored evidence of this boot", Request: NodeUpdate{}, Response: Node{}, Status: 200},
		{Method: "DELETE", Path: PathNodes + "/{id}", Summary: "Forget a node with its evidence", Status: 204},
		{Method: "PUT", Path: PathNodes + "/{id}/cordon", Summary: "Say whether the Kubernetes node is cordoned, which mutes staleness for 30 minutes at most; for the operator alone", Request: Cordon{}, Response: Node{}, Status: 200},
		{Method: "POST", Path: PathNodes + "/{id}/{act}", Summary: "Carry out an act: pause, resume, reattest, approve (a readmission)", Response: Node{}, Status: 200},
		{Method: "GET", Path: PathNodes + "/{id}/results", Summary: "List a node's transitions, oldest first", Response: Page[Transition]{}, Status: 200, Pages: true},
		{Method: "GET", Path: PathNodes + "/{id}/failures", Summary: "List the reasons of a Failed verdict", Response: Page[attest.Failure]{}, Status: 200},
		{Method: "GET", Path: PathNodes + "/{id}/evidence", Summary: "The last accepted evidence, or that of the stored quote named by the query quote=DIGEST; 410 where it is kept no longer", Response: Evidence{}, Status: 200},
		{Method: "GET", Path: PathWatch, Summary: "Stream transitions from now on as server-sent events; after a reconnect, list the nodes: nothing is sent again", ResponseType: "text/event-stream", Status: 200},
		{Method: "GET", Path: PathReactions, Summary: "List the reactions, oldest first; the query state selects open ones or one state", Response: Page[Reaction]{}, Status: 200, Pages: true},
		{Method: "POST", Path: PathReactions + "/{id}/claim", Summary: "Take a reaction that is due or to be lifted, for a minute; for the operator alone", Response: Reaction{}, Status: 200},
		{Method: "POST", Path: PathReactions + "/{id}/report", Summary: "Say what became of a claimed reaction", Request: ReactionReport{}, Response: Reaction{}, Status: 200},
		{Method: "GET", Path: PathSuspension, Summary: "Whether all reactions are suspended, by whom and why", Response: Suspension{}, Status: 200},
		{Method: "PUT", Path: PathSuspension, Summary: "Suspend all reactions, with a reason, or let them go on", Request: Suspension{}, Response: Suspension{}, Status: 200},
		{Method: "GET", Path: PathPolicies, Summary: "List the stored policy documents, oldest first", Response: Page[Policy]{}, Status: 200, Pages: true},
		{Method: "POST", Path: PathPolicies, Summary: "Store a policy document; the query keylime=NAME imports Keylime's JSON", RequestType: "application/octet-stream", Response: Policy{}, Status: 201},
		{Method: "GET", Path: PathPolicies + "/{name}", Summary: "A document's bytes by name or digest", ResponseType: "application/yaml", Status: 200},
		{Method: "DELETE", Path: PathPolicies + "/{digest}", Summary: "Delete a document that no node has assigned", Status: 204},
		{Method: "GET", Path: PathEndorsements, Summary: "List the certificates that endorse EKs", Response: Page[Root]{}, Status: 200},
		{Method: "POST", Path: PathEndorsements, Summary: "Accept certificates (PEM) that endorse EKs; the query emulated=true marks them as those of emulators", RequestType: "application/octet-stream", Response: RootsAdded{}, Status: 201},
		{Method: "DELETE", Path: PathEndorsements + "/{digest}", Summary: "Accept a certificate no longer", Status: 204},
		{Method: "GET", Path: PathEndorsements + "/check/{id}", Summary: "Say whether a registered agent's EK is endorsed", Response: EndorsementCheck{}, Status: 200},
		{Method: "GET", Path: PathListedKeys, Summary: "List the EKs that count as endorsed by a person's word", Response: Page[ListedKey]{}, Status: 200},
		{Method: "POST", Path: PathListedKeys, Summary: "Have an EK count as endorsed, with the label Listed", Request: ListedKey{}, Response: ListedKey{}, Status: 201},
		{Method: "DELETE", Path: PathListedKeys + "/{id}", Summary: "List an EK no longer; enrolled machines stay enrolled", Status: 204},
		{Method: "GET", Path: PathTokens, Summary: "List join tokens", Response: Page[Token]{}, Status: 200},
		{Method: "POST", Path: PathTokens, Summary: "Make a join token; its text is shown this once", Request: TokenRequest{}, Response: TokenCreated{}, Status: 201},
		{Method: "DELETE", Path: PathTokens + "/{id}", Summary: "Revoke a join token", Status: 204},
		{Method: "POST", Path: PathCertificates, Summary: "Issue a client certificate", Request: CertificateRequest{}, Response: Certificate{}, Status: 201},
		{Method: "GET", Path: PathRegistered, Summary: "List the agents that registered and proved their keys", Response: Page[Registered]{}, Status: 200},
		{Method: "GET", Path: PathPending, Summary: "List registrations that wait for a person", Response: Page[Pending]{}, Status: 200},
		{Method: "POST", Path: PathPending + "/{id}/approve", Summary: "Let a pending registration in", Status: 204},
		{Method: "GET", Path: PathClaims, Summary: "List the unanswered claims of agents to Kubernetes nodes, oldest first; for the operator alone", Response: Page[Claim]{}, Status: 200},
		{Method: "POST", Path: PathClaims + "/{id}", Summary: "Accept or refuse a claim", Request: ClaimAnswer{}, Status: 204},
		{Method: "GET", Path: PathOpenAPI, Summary: "This document", ResponseType: "application/json", Status: 200},
		{Method: "GET", Path: PathAgentBootstrap, Summary: "What an agent needs to know of its server", Response: Bootstrap{}, Status: 200},
		{Method: "POST", Path: PathAgentSessions, Summary: "Begin a session: a challenge for the AK", Request: SessionRequest{}, Response: SessionChallenge{}, Status: 201},
		{Method: "PUT", Path: PathAgentSessions + "/{session}", Summary: "Answer the challenge", Request: SessionProof{}, Response: SessionToken{}, Status: 200},
		{Method: "POST", Path: PathAgentHeartbeat, Summary: "Say that the agent lives", Request: HeartbeatRequest{}, Status: 204},
		{Method: "POST", Path: PathAgentPreflight, Summary: "Say what the agent found out about its machine", Request: PreflightRequest{}, Status: 204},
	}
}
