package identity

import (
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"maps"
	"sync"
	"time"

	"github.com/assay-project/assay/api"
	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/endorsement"
)

// Limits of agent sessions.
const (
	challengeBytes    = 32
	challengeLifetime = 60 * time.Second
	tokenLifetime     = time.Hour
	// maxChallenges bounds what strangers can make us keep: anybody may ask for a challenge. Beyond it an arbitrary one gives way, so that
	// a flood delays an agent at worst by some attempts; refusing would lock all of them out.
	maxChallenges = 20_000
)

// ErrSession says that a session is unknown, expired or was proven with another key.
var ErrSession = errors.New("session refused")

// Sessions are the agents' sessions of C1. They live in memory: after a restart of the server agents prove themselves again.
type Sessions struct {
	now func() time.Time

	mu         sync.Mutex
	challenges map[string]challenge      // by session id
	tokens     map[[32]byte]agentSession // by SHA-256 of the token
	current    map[attest.AgentID][32]byte
}

type challenge struct {
	agent   attest.AgentID
	key     attest.Digest // SHA-256 of the SPKI of the TLS key that asked
	bytes   []byte
	expires time.Time
}

type agentSession struct {
	agent   attest.AgentID
	key     attest.Digest
	expires time.Time
}

// NewSessions keeps sessions by a clock.
func NewSessions(now func() time.Time) *Sessions {
	return &Sessions{now: now, challenges: make(map[string]challenge), tokens: make(map[[32]byte]agentSession), current: make(map[attest.AgentID][32]byte)}
}

// Begin makes a challenge for the agent that presents the TLS key.
func (s *Sessions) Begin(agent attest.AgentID, key attest.Digest) (api.SessionChallenge, error) {
	id, text := make([]byte, 16), make([]byte, challengeBytes)
	for _, b := range [][]byte{id, text} {
		if _, err := io.ReadFull(rand.Reader, b); err != nil {
			return api.SessionChallenge{}, fmt.Errorf("draw challenge: %w", err)
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.now()
	if len(s.challenges) >= maxChallenges {
		s.makeRoom(now)
	}
	c := challenge{agent: agent, key: key, bytes: text, expires: now.Add(challengeLifetime)}
	s.challenges[hex.EncodeToString(id)] = c
	return api.SessionChallenge{Session: hex.EncodeToString(id), Challenge: text, Expires: c.expires}, nil
}

// makeRoom drops the expired challenges, or an arbitrary one where none is.
func (s *Sessions) makeRoom(now time.Time) {
	maps.DeleteFunc(s.challenges, func(_ string, c challenge) bool { return now.After(c.expires) })
	if len(s.challenges) < maxChallenges {
		return
	}
	for id := range s.challenges {
		delete(s.challenges, id)
		return
	}
}

// Challenged returns the agent of a session that waits for its proof.
func (s *Sessions) Challenged(session string) (attest.AgentID, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	c, ok := s.challenges[session]
	if !ok || s.now().After(c.expires) {
		return "", fmt.Errorf("%w: unknown or expired", ErrSession)
	}
	return c.agent, nil
}

// Prove checks the proof (C1): TPM2_Certify of the AK by itself over challenge and TLS key. A challenge serves once.
func (s *Sessions) Prove(session string, ak endorsement.AK, key attest.Digest, proof api.SessionProof) (api.SessionToken, error) {
	s.mu.Lock()
	c, ok := s.challenges[session]
	delete(s.challenges, session)
	s.mu.Unlock()
	now := s.now()
	if !ok || now.After(c.expires) {
		return api.SessionToken{}, fmt.Errorf("%w: unknown or expired", ErrSession)
	}
	if c.key != key {
		return api.SessionToken{}, fmt.Errorf("%w: proven over another TLS key than it was begun with", ErrSession)
	}
	qualifying := attest.SHA256.Sum([]byte(api.SessionDomain), c.bytes, key.Bytes())
	if err := endorsement.VerifyCertify(ak, proof.Attest, proof.Signature, qualifying.Bytes()); err != nil {
		return api.SessionToken{}, fmt.Errorf("%w: %w", ErrSession, err)
	}
	raw := make([]byte, 32)
	if _, err := io.ReadFull(rand.Reader, raw); err != nil {
		return api.SessionToken{}, fmt.Errorf("draw token: %w", err)
	}
	token := hex.EncodeToString(raw)
	sum := sha256.Sum256([]byte(token))
	t := agentSession{agent: c.agent, key: key, expires: now.Add(tokenLifetime)}
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.tokens, s.current[c.agent])
	s.tokens[sum], s.current[c.agent] = t, sum
	return api.SessionToken{Token: token, Expires: t.expires}, nil
}

// AgentOf returns whose token it is, over the TLS key that it was proven with.
func (s *Sessions) AgentOf(token string, key attest.Digest) (attest.AgentID, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	t, ok := s.tokens[sha256.Sum256([]byte(token))]
	if !ok || s.now().After(t.expires) {
		return "", fmt.Errorf("%w: unknown or expired token", ErrSession)
	}
	if subtle.ConstantTimeCompare(t.key.Bytes(), key.Bytes()) != 1 {
		return "", fmt.Errorf("%w: the token belongs to another TLS key", ErrSession)
	}
	return t.agent, nil
}
