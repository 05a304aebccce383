! Fortran 2008 with `use mpi_f08`: typed handles, optional error arguments, statuses as structures, a user operation.
!   use_f08 [ROUNDS [PAUSE_MS]]
module rotation
  use mpi_f08
  use, intrinsic :: iso_c_binding
  implicit none
contains
  subroutine rotate_add(invec, inoutvec, len, datatype) bind(c)
    type(c_ptr), value :: invec, inoutvec
    integer :: len, i
    type(MPI_Datatype) :: datatype
    integer(c_int64_t), pointer :: a(:), b(:)
    call c_f_pointer(invec, a, [len])
    call c_f_pointer(inoutvec, b, [len])
    do i = 1, len
      b(i) = modulo(a(i) + b(i), 998244353_c_int64_t)
    end do
  end subroutine
end module

program f08
  use mpi_f08
  use rotation
  implicit none
  integer, parameter :: n = 800
  type(MPI_Comm) :: half, whole
  type(MPI_Request) :: requests(2), persistent
  type(MPI_Status) :: status, statuses(2)
  type(MPI_Datatype) :: block, column
  type(MPI_Op) :: op
  type(MPI_Message) :: message
  type(MPI_Group) :: group
  integer :: me, np, r, i, left, right, rounds, pause_ms, count, half_rank
  integer(c_int64_t) :: matrix(n, 4), other(n, 4), hash, sum, all(64)
  logical :: flag
  real(8) :: t0
  character(len=32) :: arg

  call MPI_Init()
  call MPI_Comm_rank(MPI_COMM_WORLD, me)
  call MPI_Comm_size(MPI_COMM_WORLD, np)
  rounds = 100; pause_ms = 30
  if (command_argument_count() >= 1) then
    call get_command_argument(1, arg); read (arg, *) rounds
  end if
  if (command_argument_count() >= 2) then
    call get_command_argument(2, arg); read (arg, *) pause_ms
  end if
  right = modulo(me + 1, np); left = modulo(me - 1, np)
  call MPI_Comm_dup(MPI_COMM_WORLD, whole)
  call MPI_Comm_split(whole, modulo(me, 2), me, half)
  call MPI_Comm_rank(half, half_rank)
  call MPI_Comm_group(half, group)
  call MPI_Group_size(group, count)
  call MPI_Group_free(group)
  call MPI_Type_contiguous(2, MPI_INTEGER8, block)
  call MPI_Type_vector(n / 4, 1, 2, block, column)
  call MPI_Type_commit(column)
  call MPI_Op_create(rotate_add, .true., op)
  call MPI_Recv_init(other, 1, column, left, 3, whole, persistent)
  hash = me + 1

  do r = 1, rounds
    do i = 1, n
      matrix(i, :) = modulo(hash * i + [1, 2, 3, 4] * r, 1000003_c_int64_t)
    end do
    other = 0
    call MPI_Start(persistent)
    call MPI_Ssend(matrix, 1, column, right, 3, whole)
    call MPI_Wait(persistent, status)
    call MPI_Get_count(status, column, count)
    if (count /= 1 .or. status%MPI_SOURCE /= left .or. status%MPI_TAG /= 3) call MPI_Abort(whole, 3)
    hash = modulo(hash * 31 + sum_of(other), 998244353_c_int64_t)

    call MPI_Isend(hash, 1, MPI_INTEGER8, right, 4, whole, requests(1))
    call MPI_Mprobe(MPI_ANY_SOURCE, 4, whole, message, status)
    call MPI_Imrecv(sum, 1, MPI_INTEGER8, message, requests(2))
    call MPI_Waitall(2, requests, statuses)
    hash = modulo(hash + sum, 998244353_c_int64_t)

    call MPI_Iallreduce(hash, sum, 1, MPI_INTEGER8, op, half, requests(1))
    call MPI_Wait(requests(1), MPI_STATUS_IGNORE)
    hash = modulo(hash * 7 + sum, 998244353_c_int64_t)
    call MPI_Allreduce(MPI_IN_PLACE, sum, 1, MPI_INTEGER8, MPI_MAX, whole)
    hash = modulo(hash + sum, 998244353_c_int64_t)
    t0 = MPI_Wtime()
    do while (MPI_Wtime() - t0 < pause_ms * 0.001d0)
      call MPI_Iprobe(MPI_ANY_SOURCE, 9, whole, flag, MPI_STATUS_IGNORE)
    end do
  end do
  call MPI_Gather(hash, 1, MPI_INTEGER8, all, 1, MPI_INTEGER8, 0, whole)
  if (me == 0) then
    hash = np
    do i = 1, np
      hash = modulo(hash * 31 + all(i), 998244353_c_int64_t)
    end do
    print '(a,z16.16)', 'RESULT ', hash
  end if
  call MPI_Request_free(persistent)
  call MPI_Type_free(column); call MPI_Type_free(block); call MPI_Op_free(op)
  call MPI_Comm_free(half); call MPI_Comm_free(whole)
  call MPI_Finalize()
contains
  function sum_of(a) result(total)
    integer(c_int64_t), intent(in) :: a(:, :)
    integer(c_int64_t) :: total
    total = modulo(sum_all(a), 998244353_c_int64_t)
  end function
  function sum_all(a) result(total)
    integer(c_int64_t), intent(in) :: a(:, :)
    integer(c_int64_t) :: total
    integer :: i, j
    total = 0
    do j = 1, size(a, 2)
      do i = 1, size(a, 1)
        total = total + a(i, j) * (i + j)
      end do
    end do
  end function
end program
