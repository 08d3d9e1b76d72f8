package assay

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

const module = "github.com/assay-project/assay/"

// Words and judgement may be imported by everyone; they import only what stands beside them here.
var layers = map[string][]string{
	"attest":      {},
	"evidence":    {"attest", "evidence", "endorsement"},
	"endorsement": {"attest"},
	"policy":      {"attest", "evidence", "endorsement"},
	"appraisal":   {"attest", "evidence", "endorsement", "policy"},
	"dossier":     {"attest", "evidence", "endorsement", "policy", "appraisal"},
	"ear":         {"attest", "evidence", "endorsement", "policy", "appraisal"},
	"api":         {"attest"},
	"reaction":    {"attest", "api", "reaction"},
	"wire":        {"attest", "evidence", "endorsement"},
}

var (
	words  = []string{"attest", "evidence", "endorsement", "policy", "appraisal", "dossier", "ear", "api", "wire", "reaction", "internal"}
	roles  = []string{"registrar", "verifier", "agent", "tenant", "gateway"}
	others = []string{"client", "tpm", "sqlstore", "lab", "deploy", "kube"}
)

// exceptions to the layers, each with its reason.
var exceptions = map[[2]string]string{
	{"sqlstore", "registrar"}: "an adapter of the roles' stores speaks their types; the interfaces stand with the roles that use them",
	{"sqlstore", "verifier"}:  "as above",
	{"agent", "tpm"}:          "the agent is the role that works with the TPM of its machine",
	{"agent", "deploy"}:       "the agent installs the IMA policies that deploy/ima ships",
	{"lab", "deploy"}:         "a lab machine carries the IMA policy that real machines get",
	{"lab", "lab"}:            "the machine and what runs inside it are one technology",
	{"tpm", "tpm"}:            "its test helpers",
	{"kube", "client"}:        "the operator speaks the native API, by its client",
	{"kube", "deploy"}:        "the operator brings the CRDs that the chart installs",
}

// restricted imports: who alone may use a library.
var restricted = map[string][]string{
	"github.com/google/go-tpm":       {"tpm", "evidence/quote", "endorsement", "wire", "internal/swtpm"},
	"database/sql":                   {"sqlstore"},
	"modernc.org/sqlite":             {"sqlstore"},
	"github.com/pressly/goose":       {"sqlstore"},
	"github.com/cilium/ebpf":         {"bpf"},
	"k8s.io":                         {"kube", "lab/cluster", "test/world"},
	"sigs.k8s.io/controller-runtime": {"kube"},
	"github.com/spf13/cobra":         {"cmd", "internal/cli", "deploy/images/mkimages"},
}

// pure folders decide: whatever they need of the world, the time too, comes in.
var pure = []string{"attest", "evidence", "endorsement", "policy", "appraisal", "dossier", "api", "reaction", "verifier/machine"}

// impure is what they leave to others.
var (
	impurePackages = []string{"net", "net/http", "os", "os/exec", "log", "log/slog", "crypto/rand", "math/rand", "math/rand/v2", "database/sql"}
	impureOfTime   = []string{"Now", "Since", "Until", "Sleep", "After", "AfterFunc", "NewTimer", "NewTicker", "Tick"}
)

type goFile struct {
	path string // slash-separated, from the root
	dir  string
	test bool
	ast  *ast.File
}

func goFiles(t *testing.T) []goFile {
	t.Helper()
	var files []goFile
	err := filepath.WalkDir(".", func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && (strings.HasPrefix(d.Name(), ".") && path != "." || d.Name() == "testdata" || path == "build" || isModule(path)) {
			return filepath.SkipDir
		}
		if !strings.HasSuffix(path, ".go") {
			return nil
		}
		parsed, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.ParseComments)
		if err != nil {
			return err
		}
		slash := filepath.ToSlash(path)
		files = append(files, goFile{slash, filepath.ToSlash(filepath.Dir(path)), strings.HasSuffix(path, "_test.go"), parsed})
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(files) < 20 {
		t.Fatalf("found only %d Go files: is this the root of the module?", len(files))
	}
	return files
}

// isModule reports whether a folder is the root of a module within this one, with rules of its own.
func isModule(folder string) bool {
	_, err := os.Stat(filepath.Join(folder, "go.mod"))
	return err == nil && folder != "."
}

func TestEveryPackageHasADoc(t *testing.T) {
	docs := map[string]bool{}
	for _, f := range goFiles(t) {
		if !f.test {
			docs[f.dir] = docs[f.dir] || f.ast.Doc != nil
		}
	}
	for dir, ok := range docs {
		if !ok {
			t.Errorf("package %s has no package comment: what it does, what it trusts, what it leaves to others", dir)
		}
	}
}

func TestDepth(t *testing.T) {
	for _, f := range goFiles(t) {
		if strings.Count(f.dir, "/") > 2 {
			t.Errorf("%s: folders are at most 3 deep", f.path)
		}
	}
}

func top(path string) string {
	first, _, _ := strings.Cut(path, "/")
	return first
}

func TestLayers(t *testing.T) {
	for _, f := range goFiles(t) {
		if f.test {
			continue
		}
		for _, spec := range f.ast.Imports {
			path, _ := strconv.Unquote(spec.Path.Value)
			if own, ok := strings.CutPrefix(path, module); ok && !mayImport(f.dir, own) {
				t.Errorf("%s imports %s: not allowed by the layers", f.path, own)
			}
			for library, users := range restricted {
				if (path == library || strings.HasPrefix(path, library+"/")) && !slices.ContainsFunc(users, func(u string) bool { return f.dir == u || strings.HasPrefix(f.dir, u+"/") }) {
					t.Errorf("%s imports %s: only %v may", f.path, path, users)
				}
			}
		}
	}
}

func mayImport(from, to string) bool {
	a, b := top(from), top(to)
	if a == "cmd" || a == "test" || from == to {
		return true
	}
	if exceptions[[2]string{a, b}] != "" {
		return true
	}
	if allowed, ok := layers[a]; ok {
		return slices.Contains(allowed, b)
	}
	if a == "internal" {
		return b == "attest" || b == "internal" || b == "evidence"
	}
	if slices.Contains(roles, a) || slices.Contains(others, a) {
		return slices.Contains(words, b) || a == b
	}
	return false
}

// TestPureFolders leaves out the helpers of tests, in folders like quote/quotetest.
func TestPureFolders(t *testing.T) {
	for _, f := range goFiles(t) {
		in := func(folder string) bool { return f.dir == folder || strings.HasPrefix(f.dir, folder+"/") }
		if f.test || strings.HasSuffix(f.dir, "test") || !slices.ContainsFunc(pure, in) {
			continue
		}
		for _, spec := range f.ast.Imports {
			path, _ := strconv.Unquote(spec.Path.Value)
			if own, ok := strings.CutPrefix(path, module); slices.Contains(impurePackages, path) || ok && !slices.Contains(words, top(own)) {
				t.Errorf("%s imports %s: this folder is pure", f.path, path)
			}
		}
		ast.Inspect(f.ast, func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.GoStmt:
				t.Errorf("%s starts a goroutine: this folder is pure", f.path)
			case *ast.SelectorExpr:
				if x, ok := n.X.(*ast.Ident); ok && x.Name == "time" && slices.Contains(impureOfTime, n.Sel.Name) {
					t.Errorf("%s: time.%s: this folder is pure, the time comes in", f.path, n.Sel.Name)
				}
			}
			return true
		})
	}
}

// TestRolesDoNotMeet holds for tests too: what needs two roles stands in test/.
func TestRolesDoNotMeet(t *testing.T) {
	for _, f := range goFiles(t) {
		for _, spec := range f.ast.Imports {
			path, _ := strconv.Unquote(spec.Path.Value)
			own, ok := strings.CutPrefix(path, module)
			if ok && slices.Contains(roles, top(f.dir)) && slices.Contains(roles, top(own)) && top(f.dir) != top(own) {
				t.Errorf("%s imports the role %s: roles speak wire, not Go", f.path, own)
			}
		}
	}
}

func TestOnlyNeedSkips(t *testing.T) {
	for _, f := range goFiles(t) {
		if f.dir == "internal/need" {
			continue
		}
		ast.Inspect(f.ast, func(n ast.Node) bool {
			if s, ok := n.(*ast.SelectorExpr); ok && slices.Contains([]string{"Skip", "Skipf", "SkipNow"}, s.Sel.Name) {
				if x, ok := s.X.(*ast.Ident); ok && (x.Name == "t" || x.Name == "tb" || x.Name == "b" || x.Name == "f") {
					t.Errorf("%s: %s.%s: only internal/need may skip", f.path, x.Name, s.Sel.Name)
				}
			}
			return true
		})
	}
}

func TestNoInit(t *testing.T) {
	for _, f := range goFiles(t) {
		for _, decl := range f.ast.Decls {
			if fn, ok := decl.(*ast.FuncDecl); ok && fn.Recv == nil && fn.Name.Name == "init" {
				t.Errorf("%s: func init", f.path)
			}
		}
	}
}
