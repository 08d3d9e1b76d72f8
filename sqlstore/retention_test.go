package sqlstore_test

import (
	"testing"
	"time"

	"github.com/assay-project/assay/verifier"
)

// Whatever the table of ended boots says: what a node is in now stays.
func TestCurrentBootStaysWhateverIsSaidOfItsEnd(t *testing.T) {
	db := newDB(t)
	c := step(insertNode(t, db, "a"))
	if _, err := db.Nodes().Commit(t.Context(), c); err != nil {
		t.Fatal(err)
	}
	for _, damage := range []string{`INSERT INTO ended_boots (node, boot, ended) VALUES ('a', 'boot', 1)`, `UPDATE nodes SET last_quote = ''`} {
		if err := db.Exec(damage); err != nil {
			t.Fatal(err)
		}
		if gone, err := db.Retention().ExpireEvidence(t.Context(), time.Now(), 10); err != nil || gone != (verifier.Expired{}) {
			t.Errorf("after %s: %+v, %v", damage, gone, err)
		}
	}
	if err := db.Exec(`UPDATE nodes SET boot = 'another'`); err != nil {
		t.Fatal(err)
	}
	if gone, err := db.Retention().ExpireEvidence(t.Context(), time.Now(), 10); err != nil || gone.Boots != 1 {
		t.Errorf("once it is in another boot: %+v, %v", gone, err)
	}
	if _, err := db.Retention().ExpireEvidence(t.Context(), time.Now(), 0); err == nil {
		t.Error("a limit of 0, which never ends, was taken")
	}
}
