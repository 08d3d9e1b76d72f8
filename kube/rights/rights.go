// Package rights says what the operator has to be allowed in the API, why, and asks the API server whether it is.
//
// The chart's ClusterRole and Role grant exactly what stands here; a test compares them. It trusts the API server's answer about the caller's own
// account. What follows from a missing right is its callers' business.
package rights

import (
	"fmt"
	"slices"
	"strings"
)

// Right is one thing that the operator has to be allowed.
type Right struct {
	Verb, Group, Resource, Subresource string
	// Name is the one object that it is for; empty for all.
	Name string
	// Namespace is where it is for; empty for the whole cluster.
	Namespace string
	// Why ends the sentence "without it the operator ...".
	Why string
	// Start: without it the operator cannot even begin.
	Start bool
}

// String reads "patch nodes" or "get secrets in namespace assay-system".
func (r Right) String() string {
	text := r.Verb + " " + r.Resource
	if r.Subresource != "" {
		text += "/" + r.Subresource
	}
	if r.Group != "" {
		text += "." + r.Group
	}
	if r.Name != "" {
		text += " " + r.Name
	}
	if r.Namespace != "" {
		text += " in namespace " + r.Namespace
	}
	return text
}

// Setting is what the rights depend on.
type Setting struct {
	// Namespace is the operator's own.
	Namespace string
	// CertManager: certificates come from cert-manager.
	CertManager bool
}

// rule is a row of the table.
type rule struct {
	group, resources, names, verbs string // separated by spaces
	why                            string
	start                          bool
}

const (
	ours    = "integrity.assay.dev"
	ourCRDs = "attestationplatforms." + ours + " nodepolicies." + ours + " nodereports." + ours
	leader  = "assay-operator" // name of the Lease and of the operator's own Deployment
)

// cluster are the rights in the whole cluster: the chart's ClusterRole.
func cluster() []rule {
	return []rule{
		{group: ours, resources: "attestationplatforms nodepolicies nodereports", verbs: "get list watch", why: "sees no policies and no reports", start: true},
		{group: ours, resources: "attestationplatforms", verbs: "create patch", why: "does not make the platform of the values"},
		{group: ours, resources: "nodereports", verbs: "create patch", why: "does not make reports of nodes"},
		{group: ours, resources: "attestationplatforms/status nodepolicies/status nodereports/status", verbs: "patch", why: "cannot write down what it found"},
		{resources: "nodes", verbs: "get list watch", why: "sees no nodes", start: true},
		{resources: "nodes", verbs: "patch", why: "neither taints, labels and cordons nodes that failed nor undoes it, and places no agents"},
		{group: "authentication.k8s.io", resources: "tokenreviews", verbs: "create", why: "enrols no node: it cannot check whose token an agent presents"},
		{resources: "events", verbs: "create patch", why: "raises no Events"},
		{group: "events.k8s.io", resources: "events", verbs: "create patch", why: "raises no Events"},
		{group: "apiextensions.k8s.io", resources: "customresourcedefinitions", verbs: "create", why: "cannot bring its kinds", start: true},
		{group: "apiextensions.k8s.io", resources: "customresourcedefinitions", names: ourCRDs, verbs: "get patch", why: "cannot bring its kinds up to date", start: true},
	}
}

// own are the rights in the operator's namespace: the chart's Role.
func own(s Setting) []rule {
	const cleanUp = "cannot be uninstalled cleanly"
	rules := []rule{
		{resources: "secrets", verbs: "get create patch", why: "cannot keep authorities and certificates"},
		{resources: "secrets", verbs: "list delete", why: cleanUp},
		{resources: "configmaps services", verbs: "list watch", why: "sees neither values nor Services", start: true},
		{resources: "configmaps services serviceaccounts", verbs: "get create patch", why: "makes neither server nor agents"},
		{resources: "configmaps serviceaccounts services", verbs: "delete", why: cleanUp},
		{resources: "serviceaccounts", verbs: "list watch", why: cleanUp},
		{group: "apps", resources: "statefulsets daemonsets", verbs: "list watch", why: "does not see whether server and agents run", start: true},
		{group: "apps", resources: "statefulsets daemonsets", verbs: "get create patch delete", why: "makes neither server nor agents"},
		{group: "apps", resources: "deployments", names: leader, verbs: "get patch", why: cleanUp},
		{resources: "pods", verbs: "get list", why: "cannot say why the server does not run"},
		{resources: "persistentvolumeclaims", verbs: "get", why: "cannot say why the server does not run"},
		{resources: "events", verbs: "list", why: "cannot say why the server does not run"},
		{group: "coordination.k8s.io", resources: "leases", verbs: "create", why: "cannot become the one that works", start: true},
		{group: "coordination.k8s.io", resources: "leases", names: leader, verbs: "get update", why: "cannot become the one that works", start: true},
		{group: "coordination.k8s.io", resources: "leases", names: leader, verbs: "delete", why: cleanUp},
	}
	if s.CertManager {
		rules = append(rules, rule{group: "cert-manager.io", resources: "certificates", verbs: "get list watch create patch delete", why: "cannot ask cert-manager for certificates"})
	}
	return rules
}

// All are the rights that an operator needs.
func All(s Setting) []Right {
	var all []Right
	for _, r := range cluster() {
		all = append(all, r.spell("")...)
	}
	for _, r := range own(s) {
		all = append(all, r.spell(s.Namespace)...)
	}
	return all
}

// ToStart are those without which an operator cannot begin.
func ToStart(s Setting) []Right {
	return slices.DeleteFunc(All(s), func(r Right) bool { return !r.Start })
}

// spell makes single rights of a row.
func (r rule) spell(namespace string) []Right {
	names := strings.Fields(r.names)
	if len(names) == 0 {
		names = []string{""}
	}
	var list []Right
	for _, resource := range strings.Fields(r.resources) {
		resource, sub, _ := strings.Cut(resource, "/")
		for _, name := range names {
			for _, verb := range strings.Fields(r.verbs) {
				list = append(list, Right{Verb: verb, Group: r.group, Resource: resource, Subresource: sub, Name: name, Namespace: namespace, Why: r.why, Start: r.start})
			}
		}
	}
	return list
}

// maxTold is how many missing rights a message names.
const maxTold = 6

// Explain says which rights are missing, what that means, and what to do.
func Explain(missing []Right) string {
	var whys, names []string
	for _, r := range missing {
		if len(names) < maxTold {
			names = append(names, r.String())
		}
		if !slices.Contains(whys, r.Why) {
			whys = append(whys, r.Why)
		}
	}
	more := ""
	if n := len(missing) - len(names); n > 0 {
		more = fmt.Sprintf(" and %d more rights", n)
	}
	return fmt.Sprintf("the operator may not %s%s. Without that it %s. Give its account the chart's ClusterRole and Role back: helm upgrade of this version does that; it goes on by itself then",
		strings.Join(names, ", may not "), more, strings.Join(whys[:min(len(whys), maxTold)], "; it "))
}
