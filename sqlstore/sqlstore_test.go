package sqlstore_test

import (
	"path/filepath"
	"testing"

	"github.com/assay-project/assay/registrar"
	registrartest "github.com/assay-project/assay/registrar/storetest"
	"github.com/assay-project/assay/sqlstore"
	"github.com/assay-project/assay/verifier"
	verifiertest "github.com/assay-project/assay/verifier/storetest"
)

var (
	_ registrar.Store        = (*sqlstore.Registrations)(nil)
	_ registrar.Tokens       = (*sqlstore.Tokens)(nil)
	_ verifier.Store         = (*sqlstore.Nodes)(nil)
	_ verifier.EvidenceStore = (*sqlstore.Nodes)(nil)
	_ verifier.PolicyStore   = (*sqlstore.Policies)(nil)
	_ verifier.RootStore     = (*sqlstore.Roots)(nil)
	_ verifier.TokenStore    = (*sqlstore.Tokens)(nil)
	_ verifier.ReactionStore = (*sqlstore.Reactions)(nil)
	_ verifier.BindingStore  = (*sqlstore.Bindings)(nil)
	_ verifier.KeyStore      = (*sqlstore.Roots)(nil)
	_ verifier.DistrustStore = (*sqlstore.Roots)(nil)

	_ verifier.RetentionStore = (*sqlstore.Retention)(nil)
)

func open(t testing.TB, path string) *sqlstore.DB {
	t.Helper()
	db, err := sqlstore.Open(t.Context(), sqlstore.Config{Path: path})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := db.Close(); err != nil {
			t.Error(err)
		}
	})
	return db
}

func TestRegistrarStoreContract(t *testing.T) {
	registrartest.Run(t, func(t *testing.T) registrar.Store {
		return open(t, filepath.Join(t.TempDir(), "assay.db")).Registrations()
	})
}

func TestVerifierStoreContract(t *testing.T) {
	verifiertest.Run(t, func(t testing.TB) verifiertest.Stores {
		db := open(t, filepath.Join(t.TempDir(), "assay.db"))
		return verifiertest.Stores{Nodes: db.Nodes(), Evidence: db.Nodes(), Policies: db.Policies(), Roots: db.Roots(), Tokens: db.Tokens(), Bindings: db.Bindings(), Reactions: db.Reactions(), Keys: db.Roots(), Distrust: db.Roots(), Retention: db.Retention()}
	})
}
