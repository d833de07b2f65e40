#include "driver/nvme/status.h"

namespace blobfs::driver::nvme {

Error status_error(std::uint16_t code, const char* what, std::uint64_t address) {
    Error error{.code = Errc::kIo, .nvme_status = code, .address = address, .what = what};
    switch (static_cast<Status>(code)) {
        case Status::kCapacityExceeded:
            error.code = Errc::kNoSpace;
            break;
        case Status::kNamespaceWriteProtected:
        case Status::kWriteToReadOnlyRange:
            error.code = Errc::kReadOnly;
            break;
        case Status::kAccessDenied:
            error.code = Errc::kAccess;
            break;
        case Status::kInvalidOpcode:
            error.code = Errc::kNotSupported;
            break;
        case Status::kInvalidNamespace:
            error.code = Errc::kNotFound;
            break;
        case Status::kLbaOutOfRange:
            error.code = Errc::kInvalidArgument;
            break;
        default:
            break;
    }
    return error;
}

Error transfer_error(std::uint16_t code, const char* what, std::uint64_t address) {
    Error error = status_error(code, what, address);
    if (error.code != Errc::kNoSpace && error.code != Errc::kReadOnly) error.code = Errc::kIo;
    return error;
}

std::string_view status_name(std::uint16_t code) {
    switch (static_cast<Status>(code)) {
        case Status::kSuccess:
            return "Successful Completion";
        case Status::kInvalidOpcode:
            return "Invalid Command Opcode";
        case Status::kInvalidField:
            return "Invalid Field in Command";
        case Status::kCommandIdConflict:
            return "Command ID Conflict";
        case Status::kDataTransferError:
            return "Data Transfer Error";
        case Status::kInternalError:
            return "Internal Error";
        case Status::kAbortRequested:
            return "Command Abort Requested";
        case Status::kAbortedQueueDeleted:
            return "Command Aborted due to SQ Deletion";
        case Status::kInvalidNamespace:
            return "Invalid Namespace or Format";
        case Status::kCommandSequenceError:
            return "Command Sequence Error";
        case Status::kInvalidSglDescriptor:
            return "Invalid SGL Segment Descriptor";
        case Status::kInvalidSglCount:
            return "Invalid Number of SGL Descriptors";
        case Status::kInvalidSglLength:
            return "Data SGL Length Invalid";
        case Status::kInvalidSglType:
            return "SGL Descriptor Type Invalid";
        case Status::kInvalidPrpOffset:
            return "PRP Offset Invalid";
        case Status::kNamespaceWriteProtected:
            return "Namespace is Write Protected";
        case Status::kLbaOutOfRange:
            return "LBA Out of Range";
        case Status::kCapacityExceeded:
            return "Capacity Exceeded";
        case Status::kNamespaceNotReady:
            return "Namespace Not Ready";
        case Status::kCompletionQueueInvalid:
            return "Completion Queue Invalid";
        case Status::kInvalidQueueId:
            return "Invalid Queue Identifier";
        case Status::kInvalidQueueSize:
            return "Invalid Queue Size";
        case Status::kAbortLimitExceeded:
            return "Abort Command Limit Exceeded";
        case Status::kEventRequestLimitExceeded:
            return "Asynchronous Event Request Limit Exceeded";
        case Status::kInvalidLogPage:
            return "Invalid Log Page";
        case Status::kInvalidQueueDeletion:
            return "Invalid Queue Deletion";
        case Status::kFeatureNotChangeable:
            return "Feature Not Changeable";
        case Status::kWriteToReadOnlyRange:
            return "Attempted Write to Read Only Range";
        case Status::kWriteFault:
            return "Write Fault";
        case Status::kUnrecoveredReadError:
            return "Unrecovered Read Error";
        case Status::kGuardCheckError:
            return "End-to-end Guard Check Error";
        case Status::kCompareFailure:
            return "Compare Failure";
        case Status::kAccessDenied:
            return "Access Denied";
        case Status::kDeallocatedBlock:
            return "Deallocated or Unwritten Logical Block";
    }
    return "unknown status";
}

}  // namespace blobfs::driver::nvme
