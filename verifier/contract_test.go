package verifier_test

import (
	"testing"

	"github.com/assay-project/assay/verifier"
	"github.com/assay-project/assay/verifier/storetest"
)

// The store of this package's tests keeps the contract that they rest on.
func TestMemoryStoreContract(t *testing.T) {
	storetest.Run(t, func(testing.TB) storetest.Stores {
		m := verifier.NewMemoryStore()
		return storetest.Stores{Nodes: m, Evidence: m, Policies: m, Roots: m, Tokens: m, Bindings: m, Reactions: m, Keys: m, Distrust: m, Retention: m}
	})
}
