package platform

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"strings"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/client-go/tools/events"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/assay-project/assay/api"
	"github.com/assay-project/assay/internal/cli"
	"github.com/assay-project/assay/kube/v1alpha1"
)

// Reconciler makes what the AttestationPlatform asks for. All members must be set.
type Reconciler struct {
	Client client.Client
	// Reader reads past the cache: Secrets are not cached.
	Reader     client.Reader
	Connection *Connection
	// Namespace is the operator's; everything that is made lies there.
	Namespace string
	// Images are used where the platform names none.
	Images v1alpha1.Images
	// RightsInterval is the least time between two looks at the rights of the operator's account, and when one that lacks is looked for again.
	RightsInterval time.Duration
	Now            func() time.Time
	Log            *slog.Logger
	Events         events.EventRecorder

	permission permission // one worker reconciles the one platform
}

const (
	looks       = 3               // a platform that is well is looked at again after this many intervals
	lookSoon    = 5 * time.Second // while certificates are missing, which somebody else is about to bring
	askTimeout  = 5 * time.Second
	maxMessages = 3
)

// Reconcile implements reconcile.Reconciler.
func (r *Reconciler) Reconcile(ctx context.Context, req ctrl.Request) (ctrl.Result, error) {
	var p v1alpha1.AttestationPlatform
	if err := r.Client.Get(ctx, req.NamespacedName, &p); err != nil {
		return ctrl.Result{}, client.IgnoreNotFound(err)
	}
	if p.DeletionTimestamp != nil {
		return ctrl.Result{}, nil // what belongs to it goes with it
	}
	found := findings{}
	r.permitted(ctx, p.Spec, found)
	id, err := r.make(ctx, &p, found)
	if err != nil {
		if !found.take(err) {
			return ctrl.Result{}, err
		}
		r.Log.Warn("platform", "err", err)
	}
	again := looks * r.RightsInterval
	if found[v1alpha1.ConditionPermitted].Status == metav1.ConditionFalse {
		again = r.RightsInterval
		r.lament(&p, found[v1alpha1.ConditionPermitted])
	}
	status := r.status(&p, id, found)
	if err := r.writeStatus(ctx, &p, status); apierrors.IsForbidden(err) {
		r.Log.Error("the status cannot be written", "err", err)
		return ctrl.Result{RequeueAfter: r.RightsInterval}, nil
	} else if err != nil {
		return ctrl.Result{}, err
	}
	if !meta.IsStatusConditionTrue(status.Conditions, v1alpha1.ConditionCertificates) {
		again = min(again, lookSoon)
	}
	if id.wait > 0 {
		again = min(again, id.wait)
	}
	return ctrl.Result{RequeueAfter: again}, nil
}

// lament raises an Event when rights begin to lack: the status may be what cannot be written.
func (r *Reconciler) lament(p *v1alpha1.AttestationPlatform, c metav1.Condition) {
	if old := meta.FindStatusCondition(p.Status.Conditions, c.Type); old != nil && old.Status == c.Status && old.Message == readable(c.Message) {
		return
	}
	r.Log.Error("rights are missing", "err", c.Message)
	r.Events.Eventf(p, nil, corev1.EventTypeWarning, c.Reason, "Reconcile", "%.900s", readable(c.Message))
}

// findings are the conditions that were judged; a missing one could not be.
type findings map[string]metav1.Condition

func (f findings) set(kind string, status metav1.ConditionStatus, reason, message string) {
	f[kind] = metav1.Condition{Type: kind, Status: status, Reason: reason, Message: message}
}

// take turns an error into a condition where a person can do something about it.
func (f findings) take(err error) bool {
	if p, ok := asProblem(err); ok {
		f.set(p.condition, metav1.ConditionFalse, p.reason, p.message)
		return true
	}
	switch {
	case apierrors.IsForbidden(err) && f[v1alpha1.ConditionPermitted].Status == metav1.ConditionFalse:
		f.set(v1alpha1.ConditionReady, metav1.ConditionFalse, ReasonPermissionMissing, err.Error())
	case apierrors.IsForbidden(err):
		f.set(v1alpha1.ConditionReady, metav1.ConditionFalse, "Forbidden", err.Error()+"; the operator's account has the chart's rights, so an admission policy or quota of the cluster refuses this: allow it")
	case apierrors.IsInvalid(err) || apierrors.IsBadRequest(err):
		f.set(v1alpha1.ConditionReady, metav1.ConditionFalse, "Rejected", "the API server rejects what follows from the specification: "+err.Error())
	default:
		return false
	}
	return true
}

func (r *Reconciler) make(ctx context.Context, p *v1alpha1.AttestationPlatform, found findings) (identity, error) {
	in := input{namespace: r.Namespace, spec: p.Spec, images: r.images(p.Spec.Images)}
	if err := in.checkImages(); err != nil {
		return identity{}, err
	}
	id, err := r.certificates(ctx, p)
	if err != nil {
		// Credentials that are gone or wrong are not used any longer. Those that only cannot be read now are.
		if _, gone := asProblem(err); gone {
			r.Connection.drop()
		}
		return id, err
	}
	found.set(v1alpha1.ConditionCertificates, metav1.ConditionTrue, cmp.Or(p.Spec.Certificates.Source, v1alpha1.SourceBuiltIn), "every certificate is there")
	in.serverCAs, in.clientCAs, in.mark, in.server, in.verifier = id.serverCAs, id.clientCAs, id.mark, id.server, id.verifier
	var emulators []byte
	if p.Spec.Agent.TPM == v1alpha1.TPMEmulated {
		if emulators, err = r.emulatedCA(ctx, p); err != nil {
			return id, err
		}
	}
	wanted := in.objects()
	for _, o := range wanted {
		if err := r.write(ctx, p, o); err != nil {
			return id, err
		}
	}
	if err := r.removeOthers(ctx, wanted); err != nil {
		return id, err
	}
	if err := r.Connection.use(id.operator); err != nil {
		return id, &problem{v1alpha1.ConditionServer, "CredentialsInvalid", err.Error()}
	}
	r.judgeServer(ctx, p, found, emulators)
	return id, r.judgeAgents(ctx, found)
}

func (r *Reconciler) images(i v1alpha1.Images) v1alpha1.Images {
	i.Server, i.Agent = cmp.Or(i.Server, r.Images.Server), cmp.Or(i.Agent, r.Images.Agent)
	i.Operator, i.Swtpm = cmp.Or(i.Operator, r.Images.Operator), cmp.Or(i.Swtpm, r.Images.Swtpm)
	return i
}

// checkImages names the images that nobody gave.
func (in input) checkImages() error {
	missing := []string{}
	for name, image := range map[string]string{"server": in.images.Server, "agent": in.images.Agent, "operator": in.images.Operator, "swtpm": in.images.Swtpm} {
		needed := name == "agent" || name == "server" && in.spec.Server.External == nil || name == "operator" && in.plugin() || name == "swtpm" && in.spec.Agent.TPM == v1alpha1.TPMEmulated
		if image == "" && needed {
			missing = append(missing, "images."+name)
		}
	}
	slices.Sort(missing)
	if len(missing) > 0 {
		return &problem{v1alpha1.ConditionReady, "ImageMissing", fmt.Sprintf("no image is given for %v; set it in the chart's values", missing)}
	}
	return nil
}

// apply writes an object of ours by server-side apply. What belongs to a platform goes with it.
func (r *Reconciler) apply(ctx context.Context, owner *v1alpha1.AttestationPlatform, o client.Object) error {
	content, err := runtime.DefaultUnstructuredConverter.ToUnstructured(o)
	if err != nil {
		return fmt.Errorf("write %T %s: %w", o, o.GetName(), err)
	}
	u := &unstructured.Unstructured{Object: content}
	unstructured.RemoveNestedField(u.Object, "status")
	unstructured.RemoveNestedField(u.Object, "metadata", "creationTimestamp")
	if owner != nil {
		yes := true
		u.SetOwnerReferences([]metav1.OwnerReference{{
			APIVersion: v1alpha1.GroupVersion().String(), Kind: "AttestationPlatform", Name: owner.Name, UID: owner.UID, Controller: &yes,
		}})
	}
	if err := r.Client.Apply(ctx, client.ApplyConfigurationFromUnstructured(u), client.FieldOwner(fieldOwner), client.ForceOwnership); err != nil {
		return fmt.Errorf("write %s %s: %w", u.GetKind(), o.GetName(), err)
	}
	return nil
}

// write applies an object. A StatefulSet's claims cannot be changed, nor some more of it: where a change needs that it is deleted and made anew. Its
// claims stay, and what lies on them; the server starts again.
func (r *Reconciler) write(ctx context.Context, owner *v1alpha1.AttestationPlatform, o client.Object) error {
	err := r.apply(ctx, owner, o)
	if set, ok := o.(*appsv1.StatefulSet); ok && fixed(err) {
		r.Log.Info("the StatefulSet is made anew", "statefulset", set.Name, "err", err)
		if err := r.Client.Delete(ctx, set, client.PropagationPolicy(metav1.DeletePropagationBackground)); client.IgnoreNotFound(err) != nil {
			return fmt.Errorf("delete StatefulSet %s: %w", set.Name, err)
		}
		return r.apply(ctx, owner, o)
	}
	return err
}

// fixed reports whether the API server refused a change of what cannot be changed.
func fixed(err error) bool {
	var refused apierrors.APIStatus
	if !errors.As(err, &refused) || refused.Status().Reason != metav1.StatusReasonInvalid || refused.Status().Details == nil {
		return false
	}
	return slices.ContainsFunc(refused.Status().Details.Causes, func(c metav1.StatusCause) bool {
		return c.Type == metav1.CauseType(field.ErrorTypeForbidden) && c.Field == "spec"
	})
}

// removeOthers deletes what is ours and not wanted any more: the agents of another form, the server when it went elsewhere. Volumes stay.
func (r *Reconciler) removeOthers(ctx context.Context, wanted []client.Object) error {
	keep := map[string]bool{}
	for _, o := range wanted {
		keep[o.GetObjectKind().GroupVersionKind().Kind+"/"+o.GetName()] = true
	}
	for kind, list := range map[string]client.ObjectList{"DaemonSet": &appsv1.DaemonSetList{}, "StatefulSet": &appsv1.StatefulSetList{}, "Service": &corev1.ServiceList{}} {
		if err := r.Client.List(ctx, list, client.InNamespace(r.Namespace), client.MatchingLabels(labels(""))); err != nil {
			return fmt.Errorf("list our %ss: %w", kind, err)
		}
		err := meta.EachListItem(list, func(o runtime.Object) error {
			object, ok := o.(client.Object)
			if !ok || keep[kind+"/"+object.GetName()] {
				return nil
			}
			return client.IgnoreNotFound(r.Client.Delete(ctx, object, client.PropagationPolicy(metav1.DeletePropagationForeground)))
		})
		if err != nil {
			return fmt.Errorf("remove a %s that is not wanted any more: %w", kind, err)
		}
	}
	return nil
}

// settled reports whether all our workloads run as they were last written.
func (r *Reconciler) settled(ctx context.Context) (bool, error) {
	var sets appsv1.DaemonSetList
	if err := r.Client.List(ctx, &sets, client.InNamespace(r.Namespace), client.MatchingLabels(labels(""))); err != nil {
		return false, fmt.Errorf("list our DaemonSets: %w", err)
	}
	for _, d := range sets.Items {
		if d.Status.ObservedGeneration < d.Generation || d.Status.UpdatedNumberScheduled < d.Status.DesiredNumberScheduled {
			return false, nil
		}
	}
	return true, nil
}

// judgeServer asks the server who it is, and says why it cannot.
func (r *Reconciler) judgeServer(ctx context.Context, p *v1alpha1.AttestationPlatform, found findings, emulators []byte) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	server := r.Connection.Get()
	answer, err := server.Server(ctx)
	if err != nil {
		reason, message := r.whyAway(context.WithoutCancel(ctx), p, err)
		found.set(v1alpha1.ConditionServer, metav1.ConditionFalse, reason, message)
		return
	}
	if answer.Role != "operator" {
		found.set(v1alpha1.ConditionServer, metav1.ConditionFalse, "WrongRole", fmt.Sprintf("the operator's certificate has the role %q at the server; it needs operator", answer.Role))
		return
	}
	if answer.Database != "" {
		found.set(v1alpha1.ConditionServer, metav1.ConditionFalse, ReasonDatabase, databaseFails(p, answer.Database))
		return
	}
	found.set(v1alpha1.ConditionServer, metav1.ConditionTrue, "Answers", "version "+answer.Version)
	if err := r.suspend(ctx, p.Spec.ReactionsSuspended); err != nil {
		found.set(v1alpha1.ConditionServer, metav1.ConditionFalse, "SwitchRefused", "reactionsSuspended could not be passed on: "+err.Error())
	}
	if emulators != nil {
		if err := r.endorseEmulators(ctx, emulators); err != nil {
			found.set(v1alpha1.ConditionServer, metav1.ConditionFalse, "RootRefused", "the root of emulated TPMs could not be added: "+err.Error())
		}
	}
}

const suspensionReason = "reactionsSuspended of AttestationPlatform cluster"

// suspend passes the switch on. A suspension that a person made at the server is the person's to end.
func (r *Reconciler) suspend(ctx context.Context, want bool) error {
	server := r.Connection.Get()
	have, err := server.Suspension(ctx)
	if err != nil {
		return err
	}
	switch {
	case want && !have.Suspended:
		_, err = server.Suspend(ctx, api.Suspension{Suspended: true, Reason: suspensionReason})
	case !want && have.Suspended && have.Reason == suspensionReason:
		_, err = server.Suspend(ctx, api.Suspension{})
	}
	return err
}

// databaseFails says what to do about a database that failed under a server that runs.
func databaseFails(p *v1alpha1.AttestationPlatform, why string) string {
	if p.Spec.Server.External != nil {
		return "the server answers, but its database fails: " + why + "; whoever runs the server has to see to its volume"
	}
	return fmt.Sprintf("the server answers, but its database fails: %s; nodes are not judged meanwhile. Make room on the volume of PersistentVolumeClaim %s, or make it writable", why, claimName(p.Spec.Server.Storage))
}

// whyAway says why a server does not answer, and what to do.
func (r *Reconciler) whyAway(ctx context.Context, p *v1alpha1.AttestationPlatform, asked error) (reason, message string) {
	if p.Spec.Server.External != nil {
		return ReasonUnreachable, asked.Error() + "; is the address right, and is it reachable from the cluster?"
	}
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	return r.absence(ctx, p.Spec.Server.Storage, asked).judge()
}

// judgeAgents compares the agents that run with those that should.
func (r *Reconciler) judgeAgents(ctx context.Context, found findings) error {
	var sets appsv1.DaemonSetList
	if err := r.Client.List(ctx, &sets, client.InNamespace(r.Namespace), client.MatchingLabels(labels(""))); err != nil {
		return fmt.Errorf("list our DaemonSets: %w", err)
	}
	found.agents(sets.Items)
	return nil
}

// agents says which DaemonSets lack pods. One that its controller has not seen yet tells nothing of what it wants.
func (found findings) agents(sets []appsv1.DaemonSet) {
	missing, total := []string{}, int32(0)
	slices.SortFunc(sets, func(a, b appsv1.DaemonSet) int { return cmp.Compare(a.Name, b.Name) })
	for _, d := range sets {
		total += d.Status.DesiredNumberScheduled
		n := d.Status.DesiredNumberScheduled - d.Status.NumberReady
		switch {
		case d.Status.ObservedGeneration < d.Generation:
			missing = append(missing, d.Name+": Kubernetes has not looked at it yet")
		case n > 0:
			missing = append(missing, fmt.Sprintf("%s: %d of %d not ready", d.Name, n, d.Status.DesiredNumberScheduled))
		}
	}
	if len(missing) > 0 {
		found.set(v1alpha1.ConditionAgents, metav1.ConditionFalse, "NotReady", fmt.Sprint(missing[:min(len(missing), maxMessages)]))
		return
	}
	found.set(v1alpha1.ConditionAgents, metav1.ConditionTrue, "Ready", fmt.Sprintf("%d pods on nodes", total))
}

// status sums up. Ready is what is not false; it names the first condition that is.
func (r *Reconciler) status(p *v1alpha1.AttestationPlatform, id identity, found findings) v1alpha1.PlatformStatus {
	next := *p.Status.DeepCopy()
	next.ObservedGeneration, next.Server = p.Generation, Address(p.Spec, r.Namespace)
	next.ServerCAPin = cmp.Or(id.pin, next.ServerCAPin)
	if _, failed := found[v1alpha1.ConditionReady]; !failed {
		found.set(v1alpha1.ConditionReady, metav1.ConditionTrue, "Ready", "everything that was asked for is there")
		for _, kind := range []string{v1alpha1.ConditionAgents, v1alpha1.ConditionServer, v1alpha1.ConditionCertificates} {
			if c, ok := found[kind]; ok && c.Status != metav1.ConditionTrue {
				found.set(v1alpha1.ConditionReady, metav1.ConditionFalse, c.Reason, c.Message)
			}
		}
	}
	// Whatever else is wrong may follow from it.
	if c := found[v1alpha1.ConditionPermitted]; c.Status == metav1.ConditionFalse {
		found.set(v1alpha1.ConditionReady, metav1.ConditionFalse, c.Reason, c.Message)
	}
	for _, kind := range []string{v1alpha1.ConditionReady, v1alpha1.ConditionPermitted, v1alpha1.ConditionCertificates, v1alpha1.ConditionServer, v1alpha1.ConditionAgents} {
		c, ok := found[kind]
		if !ok {
			c = metav1.Condition{Type: kind, Status: metav1.ConditionUnknown, Reason: "NotReached", Message: "something else has to be put right first"}
		}
		c.ObservedGeneration, c.LastTransitionTime = p.Generation, metav1.NewTime(r.Now())
		c.Message = readable(c.Message)
		meta.SetStatusCondition(&next.Conditions, c)
	}
	return next
}

// maxMessageBytes bounds the message of a condition: people read it.
const maxMessageBytes = 2000

// readable makes a message harmless and short: programs' last words are in it, and they may hold what came from outside.
func readable(text string) string {
	text = cli.Printable(text)
	if len(text) <= maxMessageBytes {
		return text
	}
	return strings.ToValidUTF8(text[:maxMessageBytes-len("…")], "") + "…"
}

func (r *Reconciler) writeStatus(ctx context.Context, p *v1alpha1.AttestationPlatform, next v1alpha1.PlatformStatus) error {
	if equality.Semantic.DeepEqual(p.Status, next) {
		return nil
	}
	changed := p.DeepCopy()
	changed.Status = next
	if err := r.Client.Status().Patch(ctx, changed, client.MergeFrom(p)); err != nil {
		return fmt.Errorf("write status of AttestationPlatform: %w", err)
	}
	return nil
}

func isIP(host string) bool { return net.ParseIP(host) != nil }
