package agent

import (
	"context"
	"errors"
	"fmt"
	"net/http"

	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/wire"
)

// ErrRefused says that the registrar will not take this agent as it is: trying again does not help, a person has to act.
var ErrRefused = errors.New("registration refused")

// registration is what an agent says of itself to a registrar.
type registration struct {
	id   attest.AgentID
	body wire.RegisterRequest
}

// register makes the three calls of a registration: versions, keys, proof that both keys are in one TPM.
// The answer may say that a person has to approve the agent first.
func register(ctx context.Context, registrar caller, who registration, device *device) (approval string, err error) {
	version, err := negotiate(ctx, registrar)
	if err != nil {
		return "", err
	}
	path := fmt.Sprintf("/v%s/agents/%s", version, who.id)
	var answer wire.Envelope[wire.RegisterResults]
	err = registrar.call(ctx, request{method: http.MethodPost, path: path, body: who.body}, &answer)
	if err != nil {
		return "", refusedFor(err, who.id)
	}
	credential, err := wire.UnpackCredential(answer.Results.Blob)
	if err != nil {
		return "", fmt.Errorf("registrar %s: credential: %w", registrar.base, err)
	}
	challenge, err := device.ActivateCredential(device.ak, credential)
	if err != nil {
		return "", err
	}
	var activated wire.Envelope[wire.ActivateResults]
	proof := wire.ActivateRequest{AuthTag: wire.AuthTag(challenge, string(who.id))}
	err = registrar.call(ctx, request{method: http.MethodPut, path: path, body: proof}, &activated)
	if err != nil {
		return "", refusedFor(err, who.id)
	}
	return activated.Results.Approval, nil
}

// negotiate returns the newest version that both sides speak. A registrar that does not answer the question gets our newest.
func negotiate(ctx context.Context, registrar caller) (wire.Version, error) {
	var answer wire.Envelope[wire.RegistrarVersionResults]
	err := registrar.call(ctx, request{method: http.MethodGet, path: "/version"}, &answer)
	if statusOf(err) != 0 {
		return wire.CurrentVersion(), nil
	}
	if err != nil {
		return wire.Version{}, err
	}
	version, ok := wire.Negotiate(answer.Results.SupportedVersions)
	if !ok {
		return version, fmt.Errorf("registrar %s speaks %.200q, this agent %s", registrar.base, answer.Results.SupportedVersions, wire.VersionNames())
	}
	return version, nil
}

// refusedFor says what a person does about a refusal for good.
func refusedFor(err error, id attest.AgentID) error {
	switch statusOf(err) {
	case http.StatusForbidden:
		return fmt.Errorf("%w: agent %s: %w; if this machine was reimaged or its TPM cleared, remove or approve the node at the server", ErrRefused, id, err)
	case http.StatusUnauthorized:
		return fmt.Errorf("%w: agent %s: %w; a name of one's own (key id) needs a valid join token", ErrRefused, id, err)
	}
	return err
}
