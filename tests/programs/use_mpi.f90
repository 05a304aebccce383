! Fortran 90 with `use mpi`: a heat equation on a cut rod, with halo exchange and allocatable arrays.
!   use_mpi [ROUNDS [PAUSE_MS]]
program heat
  use mpi
  implicit none
  integer, parameter :: wide = selected_int_kind(18), cells = 2000
  integer :: ierr, me, np, rounds, r, i, left, right, grid, pause_ms
  integer :: requests(4), statuses(MPI_STATUS_SIZE, 4), dims(1), keyval
  logical :: flag, periodic(1)
  integer(kind=MPI_ADDRESS_KIND) :: extra, value
  real(8), allocatable :: now(:), then(:)
  real(8) :: total, local, t0
  integer(wide) :: bits, hash
  character(len=32) :: arg
  character(len=MPI_MAX_OBJECT_NAME) :: name
  integer :: length

  call MPI_Init(ierr)
  call MPI_Comm_size(MPI_COMM_WORLD, np, ierr)
  rounds = 100; pause_ms = 30
  if (command_argument_count() >= 1) then
    call get_command_argument(1, arg); read (arg, *) rounds
  end if
  if (command_argument_count() >= 2) then
    call get_command_argument(2, arg); read (arg, *) pause_ms
  end if
  dims = [np]; periodic = [.false.]
  call MPI_Cart_create(MPI_COMM_WORLD, 1, dims, periodic, .false., grid, ierr)
  call MPI_Comm_rank(grid, me, ierr)
  call MPI_Cart_shift(grid, 0, 1, left, right, ierr)
  call MPI_Comm_set_name(grid, 'the rod', ierr)
  extra = 0; value = 4242 + me
  call MPI_Comm_create_keyval(MPI_COMM_NULL_COPY_FN, MPI_COMM_NULL_DELETE_FN, keyval, extra, ierr)
  call MPI_Comm_set_attr(grid, keyval, value, ierr)
  allocate (now(0:cells + 1), then(0:cells + 1))
  now = 0
  do i = 1, cells
    now(i) = modulo(real(me * cells + i, 8) * 0.618033988749895d0, 1.0d0)
  end do

  do r = 1, rounds
    call MPI_Irecv(now(0), 1, MPI_DOUBLE_PRECISION, left, 1, grid, requests(1), ierr)
    call MPI_Irecv(now(cells + 1), 1, MPI_DOUBLE_PRECISION, right, 2, grid, requests(2), ierr)
    call MPI_Isend(now(1), 1, MPI_DOUBLE_PRECISION, left, 2, grid, requests(3), ierr)
    call MPI_Isend(now(cells), 1, MPI_DOUBLE_PRECISION, right, 1, grid, requests(4), ierr)
    call MPI_Waitall(4, requests, statuses, ierr)
    do i = 1, cells
      then(i) = now(i) + 0.25d0 * (now(i - 1) - 2 * now(i) + now(i + 1))
    end do
    now(1:cells) = then(1:cells)
    local = maxval(now(1:cells))
    call MPI_Allreduce(local, total, 1, MPI_DOUBLE_PRECISION, MPI_MAX, grid, ierr)
    now(1) = now(1) + total * 1.0d-3
    call MPI_Comm_get_attr(grid, keyval, value, flag, ierr)
    if (.not. flag .or. value /= 4242 + me) call MPI_Abort(grid, 3, ierr)
    call MPI_Comm_get_name(grid, name, length, ierr)
    if (name(1:length) /= 'the rod') call MPI_Abort(grid, 3, ierr)
    t0 = MPI_Wtime()
    do while (MPI_Wtime() - t0 < pause_ms * 0.001d0)
      call MPI_Iprobe(MPI_ANY_SOURCE, 9, grid, flag, MPI_STATUS_IGNORE, ierr)
    end do
  end do

  hash = me
  do i = 1, cells
    bits = transfer(now(i), bits)
    hash = ieor(ishftc(hash, 7), bits)
  end do
  call MPI_Allreduce(hash, bits, 1, MPI_INTEGER8, MPI_BXOR, grid, ierr)
  if (me == 0) print '(a,z16.16)', 'RESULT ', bits
  call MPI_Comm_free(grid, ierr)
  call MPI_Finalize(ierr)
end program
