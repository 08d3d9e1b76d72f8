package registrar

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"strings"
	"unicode"

	"github.com/assay-project/assay/api"
	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/endorsement"
	"github.com/assay-project/assay/wire"
)

// Sentinel errors of the rules; the table in http.go maps them to statuses.
var (
	// ErrInvalid: the request says something that cannot be.
	ErrInvalid = errors.New("invalid registration")
	// ErrIdentity: the agent is known with another TPM identity.
	ErrIdentity = errors.New("another TPM identity")
	// ErrTag: the activation proves nothing.
	ErrTag = errors.New("wrong auth tag")
	// ErrFull: no more registrations of this kind are kept for now.
	ErrFull = errors.New("too many registrations")
)

// refusal is an error whose text is told to the agent as it stands.
type refusal struct {
	kind error
	text string
}

func (r *refusal) Error() string { return r.text }
func (r *refusal) Unwrap() error { return r.kind }

func refuse(kind error, format string, args ...any) error {
	return &refusal{kind, fmt.Sprintf(format, args...)}
}

func notFound(id attest.AgentID) error {
	return refuse(ErrNotFound, "Agent with ID '%s' not found", id)
}

func taken(id attest.AgentID) error {
	return refuse(ErrEKTaken, "Could not register agent '%s': its endorsement key belongs to another agent, which has to be deleted first", id)
}

// wrap says what was being done, except for refusals, which speak for themselves.
func wrap(doing string, id attest.AgentID, err error) error {
	var refused *refusal
	if errors.As(err, &refused) {
		return refused
	}
	return fmt.Errorf(doing+": %w", id, err)
}

// candidate is a registration that is well formed, with its parsed keys.
type candidate struct {
	Registration
	ek endorsement.EK
	ak endorsement.AK
}

// parse checks what can be checked without knowing the agent: keys, addresses, certificates, endorsement.
func (r *Registrar) parse(ctx context.Context, body wire.RegisterRequest) (candidate, error) {
	var c candidate
	var mistakes []string
	mistake := func(format string, args ...any) { mistakes = append(mistakes, fmt.Sprintf(format, args...)) }
	var err error
	if len(body.EK) == 0 {
		mistake("ek_tpm: missing; an endorsement key is required")
	} else if c.ek, err = endorsement.ParseEK(body.EK); err != nil {
		mistake("ek_tpm: %v", err)
	}
	if len(body.AIK) == 0 {
		mistake("aik_tpm: missing")
	} else {
		var failures []attest.Failure
		if c.ak, failures, err = endorsement.ParseAK(body.AIK); err != nil {
			mistake("aik_tpm: %v", err)
		}
		for _, f := range failures {
			mistake("aik_tpm: %s", f.Detail)
		}
	}
	if c.ek.Valid() {
		if err := checkCertifiedKey(c.ek, body.EKCert); err != nil {
			mistake("ekcert: %v", err)
		}
	}
	if err := checkContact(body); err != nil {
		mistake("%v", err)
	}
	if len(mistakes) > 0 {
		return c, refuse(ErrInvalid, "Could not register agent with invalid data: %s", strings.Join(mistakes, "; "))
	}
	c.Registration = Registration{
		EK: body.EK, AK: body.AIK, Chain: body.EKCert,
		Address: body.IP, Port: body.Port, Certificate: body.Certificate, At: r.cfg.Now(),
	}
	return c, r.endorse(ctx, &c)
}

// checkCertifiedKey refuses a certificate for another key. A certificate that Go cannot read, or whose key it cannot, is left to endorse.
func checkCertifiedKey(ek endorsement.EK, chain wire.CertificateChain) error {
	if len(chain) == 0 {
		return nil
	}
	leaf, err := x509.ParseCertificate(chain[0])
	if err != nil {
		return nil
	}
	spki, err := x509.MarshalPKIXPublicKey(leaf.PublicKey)
	if err != nil || bytes.Equal(spki, ek.SPKI()) {
		return nil
	}
	return fmt.Errorf("certifies the key %s, but ek_tpm is %s", attest.EKHash(spki), ek.ID())
}

// maxAddressBytes is the length of the longest DNS name.
const maxAddressBytes = 253

// checkContact checks where the agent says that it answers. It may be any text; nobody relies on it.
func checkContact(body wire.RegisterRequest) error {
	if len(body.IP) > maxAddressBytes {
		return fmt.Errorf("ip: %d bytes, more than %d", len(body.IP), maxAddressBytes)
	}
	if strings.ContainsFunc(body.IP, func(c rune) bool { return !unicode.IsGraphic(c) || unicode.IsSpace(c) }) {
		return fmt.Errorf("ip: %.80q holds spaces or control characters", body.IP)
	}
	if body.Port < 0 || body.Port > 65535 {
		return fmt.Errorf("port: %d is not 0 to 65535", body.Port)
	}
	if body.Certificate == "" || body.Certificate == wire.CertificateDisabled {
		return nil
	}
	block, rest := pem.Decode([]byte(body.Certificate))
	if block == nil || block.Type != "CERTIFICATE" || len(bytes.TrimSpace(rest)) > 0 {
		return fmt.Errorf("mtls_cert: neither one PEM certificate nor %q", wire.CertificateDisabled)
	}
	if _, err := x509.ParseCertificate(block.Bytes); err != nil {
		return fmt.Errorf("mtls_cert: %w", err)
	}
	return nil
}

// endorse records who vouches for the EK, or why nobody does. It refuses nothing: that is the verifier's decision at enrolment.
func (r *Registrar) endorse(ctx context.Context, c *candidate) error {
	roots, err := r.cfg.Roots(ctx)
	if err != nil {
		return fmt.Errorf("read vendor roots: %w", err)
	}
	endorsed, failures := roots.Check(c.ek, c.Chain, c.At)
	if len(failures) == 0 {
		c.EndorsedBy = endorsed.Root
		return nil
	}
	var reasons []string
	for _, f := range failures {
		reasons = append(reasons, f.Detail)
	}
	c.NotEndorsed = strings.Join(reasons, "; ")
	return nil
}

// redeemed binds a join token to an agent and returns the token's id.
func (r *Registrar) redeemed(ctx context.Context, id attest.AgentID, text string) (token string, err error) {
	token, secret, err := api.ParseJoinCredential(text)
	if err != nil {
		return "", refuse(ErrToken, "%v", err)
	}
	if r.cfg.Tokens == nil {
		return "", refuse(ErrToken, "join token %q is not valid: this registrar has none", token)
	}
	err = r.cfg.Tokens.Redeem(ctx, token, secret, id)
	if errors.Is(err, ErrToken) {
		return "", refuse(ErrToken, "join token %q is not valid for agent '%s': it is unknown, has expired, or was used by another agent", token, id)
	}
	if err != nil {
		return "", fmt.Errorf("redeem join token %s: %w", token, err)
	}
	return token, nil
}

// admissible refuses a registration that contradicts what is proven of the agent. The text is the reference's.
func admissible(old *Record, c Registration) error {
	if old == nil {
		return nil
	}
	forbidden := refuse(ErrIdentity, "Agent re-registration with different TPM identity is forbidden for security reasons")
	if old.Active != nil {
		known := old.Active.Chain
		if !bytes.Equal(old.Active.EK, c.EK) || len(known) > 0 && (len(c.Chain) == 0 || !bytes.Equal(known[0], c.Chain[0])) {
			return forbidden
		}
		return nil
	}
	// Who waits for approval holds a name only until someone comes who was given it, or whose hash it is.
	if old.Waiting != nil && !bytes.Equal(old.Waiting.Registration.EK, c.EK) && c.Token == "" && !c.isNamed(old.ID) {
		return forbidden
	}
	return nil
}

// approval returns why a person has to approve a registration, or "".
func (r *Registrar) approval(old *Record, id attest.AgentID, c Registration) string {
	if old != nil && old.Active != nil {
		if bytes.Equal(old.Active.AK, c.AK) || r.cfg.AllowReimage != nil && r.cfg.AllowReimage(id) {
			return ""
		}
		return "the TPM is known, its attestation key is new: a reimaged machine or a cleared TPM"
	}
	if c.Token != "" {
		return ""
	}
	if c.isNamed(id) {
		return ""
	}
	return "the name is not the hash of the endorsement key and came without a join token"
}

// isNamed reports whether an id is the hash of the registration's endorsement key.
func (c Registration) isNamed(id attest.AgentID) bool {
	ek, err := endorsement.ParseEK(c.EK)
	return err == nil && ek.ID() == id
}
