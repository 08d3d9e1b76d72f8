package deviceplugin

import (
	"context"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/testing/protocmp"
	"k8s.io/kubelet/pkg/apis/deviceplugin/v1beta1"
)

// registry is the kubelet's side of the registration; the kubelet itself is in the tests of the cluster.
type registry struct {
	v1beta1.UnimplementedRegistrationServer
	requests chan *v1beta1.RegisterRequest
}

func (r *registry) Register(_ context.Context, request *v1beta1.RegisterRequest) (*v1beta1.Empty, error) {
	r.requests <- request
	return &v1beta1.Empty{}, nil
}

func (r *registry) start(t *testing.T, folder string) (stop func()) {
	t.Helper()
	listener, err := net.Listen("unix", filepath.Join(folder, kubeletSocket))
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer()
	v1beta1.RegisterRegistrationServer(server, r)
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = server.Serve(listener)
	}()
	return func() { server.Stop(); <-done }
}

func (r *registry) next(t *testing.T) *v1beta1.RegisterRequest {
	t.Helper()
	select {
	case request := <-r.requests:
		return request
	case <-time.After(10 * time.Second):
		t.Fatal("the plugin did not register")
		return nil
	}
}

func TestPlugin(t *testing.T) {
	folder, err := os.MkdirTemp("", "dp-") // a socket's path is short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(folder) })
	class := t.TempDir()
	r := &registry{requests: make(chan *v1beta1.RegisterRequest, 1)}
	stop := r.start(t, folder)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() {
		ended <- New(Config{Folder: folder, Class: class, Shares: 3, Poll: 20 * time.Millisecond}).Run(ctx)
	}()
	want := &v1beta1.RegisterRequest{Version: "v1beta1", Endpoint: "assay-tpm.sock", ResourceName: "integrity.assay.dev/tpm"}
	if diff := cmp.Diff(want, r.next(t), protocmp.Transform()); diff != "" {
		t.Errorf("registration (-want +got):\n%s", diff)
	}

	conn, err := grpc.NewClient("unix://"+filepath.Join(folder, endpoint), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	plugin := v1beta1.NewDevicePluginClient(conn)
	list, err := plugin.ListAndWatch(ctx, &v1beta1.Empty{})
	if err != nil {
		t.Fatal(err)
	}
	shares := func(want int) {
		t.Helper()
		answer, err := list.Recv()
		if err != nil || len(answer.Devices) != want {
			t.Fatalf("offers %v, %v; want %d shares", answer, err, want)
		}
	}
	shares(0) // no TPM
	if err := os.Mkdir(filepath.Join(class, "tpmrm0"), 0o755); err != nil {
		t.Fatal(err)
	}
	shares(3)
	if err := os.Remove(filepath.Join(class, "tpmrm0")); err != nil {
		t.Fatal(err)
	}
	shares(0)

	got, err := plugin.Allocate(ctx, &v1beta1.AllocateRequest{ContainerRequests: []*v1beta1.ContainerAllocateRequest{{DevicesIds: []string{"tpmrm0-1"}}}})
	if err != nil {
		t.Fatal(err)
	}
	device := &v1beta1.AllocateResponse{ContainerResponses: []*v1beta1.ContainerAllocateResponse{{Devices: []*v1beta1.DeviceSpec{{ContainerPath: "/dev/tpmrm0", HostPath: "/dev/tpmrm0", Permissions: "rw"}}}}}
	if diff := cmp.Diff(device, got, protocmp.Transform()); diff != "" {
		t.Errorf("allocation (-want +got):\n%s", diff)
	}
	if options, err := plugin.GetDevicePluginOptions(ctx, &v1beta1.Empty{}); err != nil || options.PreStartRequired {
		t.Errorf("options %v, %v", options, err)
	}

	stop() // the kubelet restarts: it removes all sockets
	_ = os.Remove(filepath.Join(folder, endpoint))
	stop = r.start(t, folder)
	defer stop()
	r.next(t)
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

func TestNoKubelet(t *testing.T) {
	folder := t.TempDir()
	p := New(Config{Folder: folder, Poll: 5 * time.Millisecond})
	if err := p.serve(t.Context()); err == nil {
		t.Error("served without a kubelet")
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := p.Run(ctx); err != nil {
		t.Errorf("the plugin gave up: %v", err)
	}
}
