package verifier

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/assay-project/assay/api"
	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/endorsement"
)

// KeyStore keeps the EKs that a person listed.
type KeyStore interface {
	// AddKey stores a key; one that is listed already keeps its row.
	AddKey(ctx context.Context, k api.ListedKey) error
	// Keys returns all of them, in the order of hashes.
	Keys(ctx context.Context) ([]api.ListedKey, error)
	// RemoveKey deletes one; ErrNotFound.
	RemoveKey(ctx context.Context, ek attest.AgentID) error
}

// Distrusted is a bundled certificate that a person does not believe.
type Distrusted struct {
	Fingerprint attest.Digest
	At          time.Time
}

// DistrustStore keeps them.
type DistrustStore interface {
	// Distrust stores an entry; one that is there already stays as it is.
	Distrust(ctx context.Context, d Distrusted) error
	// Distrusted returns all of them, in the order of fingerprints.
	Distrusted(ctx context.Context) ([]Distrusted, error)
}

// VendorRoots is a RootStore that also holds the certificates that the program brings along. Removing one of these is an entry of distrust; one
// that a person added stands on its own.
type VendorRoots struct {
	RootStore
	distrust DistrustStore
	bundled  []Root
	now      func() time.Time
}

// OriginBundled is the origin of the certificates that the program brings along.
const OriginBundled = "bundled"

// NewVendorRoots adds bundled certificates to a store. now is the clock for entries of distrust.
func NewVendorRoots(store RootStore, distrust DistrustStore, bundled []Root, now func() time.Time) *VendorRoots {
	return &VendorRoots{RootStore: store, distrust: distrust, bundled: bundled, now: now}
}

// Roots implements RootStore.
func (v *VendorRoots) Roots(ctx context.Context) ([]Root, error) {
	all, err := v.RootStore.Roots(ctx)
	if err != nil {
		return nil, err
	}
	distrusted, err := v.distrust.Distrusted(ctx)
	if err != nil {
		return nil, fmt.Errorf("read distrusted roots: %w", err)
	}
	left := make(map[attest.Digest]bool) // that are left out: distrusted, or a person's already
	for _, d := range distrusted {
		left[d.Fingerprint] = true
	}
	for _, r := range all {
		left[r.Fingerprint] = true
	}
	for _, r := range v.bundled {
		if !left[r.Fingerprint] {
			all = append(all, r)
		}
	}
	slices.SortStableFunc(all, func(a, b Root) int { return strings.Compare(a.Subject, b.Subject) })
	return all, nil
}

// RemoveRoot implements RootStore. A certificate that is bundled is distrusted too, so that what a person removes is gone.
func (v *VendorRoots) RemoveRoot(ctx context.Context, fingerprint attest.Digest) error {
	if slices.ContainsFunc(v.bundled, func(r Root) bool { return r.Fingerprint == fingerprint }) {
		if err := v.distrust.Distrust(ctx, Distrusted{Fingerprint: fingerprint, At: v.now()}); err != nil {
			return fmt.Errorf("distrust %s: %w", fingerprint, err)
		}
		if err := v.RootStore.RemoveRoot(ctx, fingerprint); !errors.Is(err, ErrNotFound) {
			return err
		}
		return nil
	}
	return v.RootStore.RemoveRoot(ctx, fingerprint)
}

// An Endorsement is what endorses EKs now.
type Endorsement struct {
	// Roots are the accepted vendor roots and the listed EKs.
	Roots *endorsement.Roots
	// Emulated are the fingerprints of those roots that endorse emulators.
	Emulated []attest.Digest
}

// LoadEndorsement reads the accepted roots and the listed EKs.
func LoadEndorsement(ctx context.Context, from RootStore, keys KeyStore) (Endorsement, error) {
	stored, err := from.Roots(ctx)
	if err != nil {
		return Endorsement{}, fmt.Errorf("load vendor roots: %w", err)
	}
	roots := endorsement.NewRoots()
	var emulated []attest.Digest
	for _, r := range stored {
		if _, err := roots.AddPEM(r.PEM); err != nil {
			return Endorsement{}, fmt.Errorf("load vendor root %s: %w", r.Fingerprint, err)
		}
		if r.Emulated {
			emulated = append(emulated, r.Fingerprint)
		}
	}
	if err := addListed(ctx, roots, keys); err != nil {
		return Endorsement{}, err
	}
	return Endorsement{Roots: roots, Emulated: emulated}, nil
}

// addListed adds the listed EKs to what endorses EKs.
func addListed(ctx context.Context, roots *endorsement.Roots, keys KeyStore) error {
	listed, err := keys.Keys(ctx)
	if err != nil {
		return fmt.Errorf("load listed endorsement keys: %w", err)
	}
	for _, k := range listed {
		if err := roots.AddKey(k.EK); err != nil {
			return fmt.Errorf("load listed endorsement keys: %w", err)
		}
	}
	return nil
}
