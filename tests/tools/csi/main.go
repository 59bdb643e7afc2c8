// Command csi-sanity runs the specs of github.com/kubernetes-csi/csi-test/v5/pkg/sanity, unchanged, against a CSI driver.
//
// It stands in for csi-test's own main, which cannot be told three things that a driver with a cloud behind it needs (the AWS
// drivers' own sanity tests are written on the package for the same reasons):
//
//   - Made-up ids ("fake-vol-id", "reallyfakesnapshotid") that the cloud can parse. EC2 refuses "fake-vol-id" as malformed before it
//     asks whether there is such a volume, so a spec about a volume that does not exist would test the wrong thing. With --ids=ec2 such an
//     id is replaced, always by the same one, on its way to the driver.
//   - A deadline: the specs give their calls none, so one call that hangs would hang the run.
//   - A directory of its own for each spec, so that what one spec leaves behind fails that spec and not all after it.
package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"flag"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/kubernetes-csi/csi-test/v5/pkg/sanity"
	"github.com/onsi/ginkgo/v2"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"k8s.io/klog/v2"
)

// ec2Ids are the fields of CSI requests that the EBS driver sends to EC2, and how EC2's ids for them begin.
var ec2Ids = map[protoreflect.Name]string{
	"volume_id":        "vol-",
	"source_volume_id": "vol-",
	"snapshot_id":      "snap-",
	"node_id":          "i-",
}

// wellFormed answers id if it is one that EC2 can parse, otherwise one made from it.
func wellFormed(prefix, id string) string {
	if id == "" || strings.HasPrefix(id, prefix) {
		return id
	}
	sum := sha256.Sum256([]byte(id))
	return prefix + hex.EncodeToString(sum[:])[:17]
}

// rewrite makes the ids in a message well-formed.
func rewrite(message protoreflect.Message) {
	message.Range(func(field protoreflect.FieldDescriptor, value protoreflect.Value) bool {
		switch {
		case field.IsMap() || field.IsList():
		case field.Kind() == protoreflect.MessageKind:
			rewrite(value.Message())
		case field.Kind() == protoreflect.StringKind:
			if prefix, ok := ec2Ids[field.Name()]; ok {
				message.Set(field, protoreflect.ValueOfString(wellFormed(prefix, value.String())))
			}
		}
		return true
	})
}

func intercept(ids string, deadline time.Duration) grpc.DialOption {
	return grpc.WithUnaryInterceptor(func(ctx context.Context, method string, request, reply any, conn *grpc.ClientConn,
		invoke grpc.UnaryInvoker, options ...grpc.CallOption) error {
		ctx, cancel := context.WithTimeout(ctx, deadline)
		defer cancel()
		if message, ok := request.(proto.Message); ok && ids == "ec2" {
			copied := proto.Clone(message)
			rewrite(copied.ProtoReflect())
			request = copied
		}
		return invoke(ctx, method, request, reply, conn, options...)
	})
}

// kind says what lies on a path; csi-sanity asks when it did not make the path itself.
func kind(path string) (sanity.PathKind, error) {
	info, err := os.Stat(path)
	switch {
	case os.IsNotExist(err):
		return sanity.PathIsNotFound, nil
	case err != nil:
		return "", err
	case info.IsDir():
		return sanity.PathIsDir, nil
	case info.Mode().IsRegular():
		return sanity.PathIsFile, nil
	default:
		return sanity.PathIsOther, nil
	}
}

type result struct{ failed bool }

func (r *result) Fail() { r.failed = true }

func main() {
	config := sanity.NewTestConfig()
	flag.StringVar(&config.Address, "endpoint", "", "the node service, unix:///path")
	flag.StringVar(&config.ControllerAddress, "controller-endpoint", "", "the controller service, if it is another socket")
	flag.StringVar(&config.TestVolumeParametersFile, "parameters", "", "YAML file of volume parameters")
	flag.StringVar(&config.TestVolumeMutableParametersFile, "mutable-parameters", "", "YAML file of parameters to modify a volume with")
	flag.StringVar(&config.TestVolumeAccessType, "access", "mount", "mount or block")
	flag.Int64Var(&config.TestVolumeSize, "size", config.TestVolumeSize, "bytes of a volume")
	flag.Int64Var(&config.TestVolumeExpandSize, "expand-size", 0, "bytes of an expanded volume")
	flag.BoolVar(&config.TestNodeVolumeAttachLimit, "attach-limit", false, "attach as many volumes as the node says it takes, and one more")
	dir := flag.String("dir", "", "an existing directory; targets and staging paths are made in it")
	ids := flag.String("ids", "", "ec2: replace made-up ids that EC2 cannot parse")
	deadline := flag.Duration("deadline", time.Minute, "how long one call may take")
	flag.Parse()
	if config.Address == "" || *dir == "" || (*ids != "" && *ids != "ec2") {
		fmt.Fprintln(os.Stderr, "csi-sanity: give --endpoint and --dir; --ids knows ec2 only")
		os.Exit(2)
	}
	config.TargetPath, config.StagingPath = *dir+"/target-", *dir+"/staging-"
	own := func(path string) (string, error) {
		return os.MkdirTemp(*dir, strings.TrimPrefix(path, *dir+"/"))
	}
	config.CreateTargetDir, config.CreateStagingDir = own, own
	config.CheckPath = kind
	config.DialOptions = append(config.DialOptions, intercept(*ids, *deadline))
	config.ControllerDialOptions = append(config.ControllerDialOptions, intercept(*ids, *deadline))
	klog.SetOutput(ginkgo.GinkgoWriter)
	var r result
	sanity.Test(&r, config)
	if r.failed {
		os.Exit(1)
	}
}
